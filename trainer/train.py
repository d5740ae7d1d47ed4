"""The verb `train`: from a configuration to a published adapter."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer import checkpoint, files, loop, preflight
from trainer.build import make_job
from trainer.config import OutputConfig, TrainConfig
from trainer.config_file import config_hash
from trainer.errors import BaseModelError, CheckpointError, ConfigError
from trainer.finish import finish
from trainer.log import MetricsLog
from trainer.progress import ProgressView
from trainer.resolve import detect_hardware, resolve
from understudy.artifact import ArtifactError, base_fingerprint


@dataclass(frozen=True)
class TrainOptions:
    """How to run, apart from what to train."""

    resume: bool = False
    """Continue from the checkpoint in the output folder."""
    overwrite: bool = False
    """Replace an earlier run in the output folder."""
    quiet: bool = False
    """Print no progress."""


def train(config: TrainConfig, options: TrainOptions) -> dict[str, Any]:
    """Trains, exports, checks and publishes one adapter; returns the summary for `--json`.

    Writes `metrics.jsonl`, `loss.png`, `checkpoint.pt` and `adapter/` into `config.output.dir`.
    Raises TrainerError.
    """
    config = resolve(config, detect_hardware())
    assert config.device is not None
    assert config.dtype is not None
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    output = config.output.dir
    _check_output(config.output, options)
    prepared = preflight.prepare(config)
    identity = _identify(config, prepared)
    resumed = checkpoint.load(output / files.CHECKPOINT, identity) if options.resume else None
    _clear_output(output, keep=options.resume)

    job = make_job(config, prepared)
    num_log_bytes = 0
    if resumed is not None:
        state, num_log_bytes = resumed
        job.load_state(state)
    with (
        loop.stop_on_signal() as stop,
        MetricsLog(output / files.METRICS, num_log_bytes) as log,
        ProgressView(job, options.quiet) as view,
    ):
        loop.run(job, log, view, output / files.CHECKPOINT, identity, stop)
    return finish(job, prepared, identity)


def _identify(config: TrainConfig, prepared: preflight.Prepared) -> checkpoint.Identity:
    try:
        base = base_fingerprint(config.base)
    except ArtifactError as error:
        raise BaseModelError(f"base {str(config.base)!r}: {error}") from error
    return checkpoint.Identity(
        config=config_hash(config),
        data=prepared.data_hash(),
        base=base,
    )


def _check_output(settings: OutputConfig, options: TrainOptions) -> None:
    for key, folder in (("dir", settings.dir), ("store", settings.store)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise ConfigError(f"key 'output.{key}': {str(folder)!r} is a file")
    if options.resume or options.overwrite:
        return
    if found := [name for name in files.OWN if (settings.dir / name).exists()]:
        raise CheckpointError(
            f"{settings.dir}: holds a run already ({found[0]}); continue it with --resume, "
            "replace it with --overwrite, or set another output.dir"
        )


def _clear_output(output: Path, *, keep: bool) -> None:
    output.mkdir(parents=True, exist_ok=True)
    if not keep:
        for name in (files.METRICS, files.PLOT, files.CHECKPOINT):
            (output / name).unlink(missing_ok=True)
        shutil.rmtree(output / files.ADAPTER, ignore_errors=True)
