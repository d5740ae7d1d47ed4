"""Runs that are made once: trained, continued where they were interrupted, or taken as they are."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import files, preflight
from trainer.config import TrainConfig
from trainer.config_file import config_hash
from trainer.errors import BaseModelError, CheckpointError
from trainer.export import RUN_FILE
from trainer.run_file import Run
from trainer.train import Bases, TrainOptions, train_all
from understudy.artifact import ArtifactError, base_fingerprint


@dataclass(frozen=True)
class Done:
    """A run that is finished."""

    summary: dict[str, Any]
    """What `train` returns for `--json`."""
    facts: dict[str, Any]
    """What `run.json` holds."""
    base_bytes: int
    """Memory of the base that it trained over."""


def finished(config: TrainConfig) -> Done | None:
    """The run in `config.output.dir`, if configuration, data and base, and how they are read,
    were those of now.

    `config` is resolved. Raises InputError.
    """
    try:
        path = config.output.dir / files.SUMMARY
        done = _done(json.loads(path.read_text(encoding="utf-8")))
        fingerprint = base_fingerprint(config.base)
    except (OSError, ValueError, KeyError):
        return None
    except ArtifactError as error:
        raise BaseModelError(f"base {str(config.base)!r}: {error}") from error
    facts = done.facts
    same = facts["config_hash"] == config_hash(config) and facts["base_fingerprint"] == fingerprint
    if not same:
        return None
    prepared = preflight.prepare(config)
    now = prepared.data_hash(), prepared.reading_hash()
    return done if (facts["data"]["sha256"], facts.get("reading_hash")) == now else None


def train_or_continue(
    config: TrainConfig,
    kept: Bases,
    *,
    quiet: bool,
    watch: Callable[[int, float], None] | None = None,
) -> Done:
    """Trains `config` (resolved), from a checkpoint if its folder has one that fits.

    `kept` and `watch` as in `train_all`. Raises TrainerError.
    """
    run, folder = Run.of(config), config.output.dir
    interrupted = (folder / files.CHECKPOINT).is_file() and not (folder / files.SUMMARY).is_file()
    if interrupted:
        try:
            options = TrainOptions(resume=True, quiet=quiet)
            return _done(train_all(run, options, kept, watch))
        except CheckpointError:
            # Of another configuration, or damaged.
            pass
    return _done(train_all(run, TrainOptions(overwrite=True, quiet=quiet), kept, watch))


def _done(summary: dict[str, Any]) -> Done:
    """Raises OSError, ValueError or KeyError where there is no artifact."""
    job = summary["jobs"][0]
    facts = json.loads((Path(job["artifact"]) / RUN_FILE).read_text(encoding="utf-8"))
    return Done(job, facts, summary["memory"]["base_bytes"])
