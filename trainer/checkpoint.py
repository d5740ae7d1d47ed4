"""Checkpoints: the full state of a run, all of its jobs at one time, in one file."""

import errno
import os
import pickle
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.errors import CheckpointError, OutputError

FORMAT = 3


@dataclass(frozen=True)
class Identity:
    """What must be equal for a checkpoint to fit a job: sha256, in hex."""

    config: str
    data: str
    base: str
    """Its weights and tokenizer."""
    reading: str = ""
    """What tells how those are read: the base's `config.json`, and the texts of the wordings."""

    def difference(self, other: "Identity") -> str | None:
        """The first part that differs, in words."""
        parts = {
            "config": "configuration",
            "data": "training data",
            "base": "base model",
            "reading": "base's config.json, or a wording of the library,",
        }
        return next((w for k, w in parts.items() if getattr(self, k) != getattr(other, k)), None)


@dataclass(frozen=True)
class Saved:
    """One job in a checkpoint."""

    identity: Identity
    state: dict[str, Any]
    """What `Job.state` gave."""
    num_log_bytes: int
    """Length of the metrics log that belongs to this state."""


def save(path: Path, jobs: Mapping[str, Saved]) -> None:
    """Writes the state of every job, by name; a crash leaves the old checkpoint or the new one.

    Raises OutputError if there is no room for it; the old one is there still.
    """
    temporary = path.with_suffix(".tmp")
    content = {
        "format": FORMAT,
        "jobs": {
            name: {
                "identity": astuple(saved.identity),
                "state": saved.state,
                "num_log_bytes": saved.num_log_bytes,
            }
            for name, saved in jobs.items()
        },
    }
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        kept = "; the one before it is intact" if path.is_file() else ""
        raise OutputError(f"{OutputError.of(path, error)}{kept}") from error


def load(path: Path, identities: Mapping[str, Identity]) -> dict[str, Saved]:
    """What `save` wrote, for jobs of these names and identities.

    Raises CheckpointError if it is damaged, or belongs to another run.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint; start over with --overwrite") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of this version")
    try:
        jobs = {
            name: Saved(Identity(*job["identity"]), job["state"], job["num_log_bytes"])
            for name, job in content["jobs"].items()
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint; start over with --overwrite") from error
    if jobs.keys() != identities.keys():
        raise CheckpointError(
            f"{path}: it holds the jobs {', '.join(sorted(jobs))}, not "
            f"{', '.join(sorted(identities))}; restore them, or start over with --overwrite"
        )
    for name, saved in jobs.items():
        if differing := saved.identity.difference(identities[name]):
            of = f" of {name!r}" if len(jobs) > 1 else ""
            raise CheckpointError(
                f"{path}: the {differing}{of} is not that of the interrupted run; restore it, or "
                "start over with --overwrite"
            )
    return jobs


def _sync_folder(folder: Path) -> None:
    """Makes the new name survive a crash of the machine, where folders can be synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
