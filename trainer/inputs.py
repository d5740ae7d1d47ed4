"""What a look at folders and files tells of a run, before libraries load that take seconds."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from trainer import files, folder
from trainer.config import TrainConfig
from trainer.errors import BaseModelError, CheckpointError, InputError
from trainer.run_file import Run
from trainer.tasks import tasks_of

T = TypeVar("T")
PARTS = ("train", "validation", "test")


def check_inputs(run: Run, directory: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises InputError if a folder cannot be used or written, or the base or a file is not there.

    What is resumed lies in `directory`. Reads no file's content, and leaves nothing behind.
    """
    folder.check_free(run)
    if not (resume or overwrite):
        folder.check_unused(run)
    if resume:
        _check_resumable(directory)
    for config in run.configs:
        of_job(run, config, partial(_check_sources, config))


def of_job(run: Run, config: TrainConfig, check: Callable[[], T]) -> T:
    """What `check` gives; of several jobs a refusal names the one it is about."""
    try:
        return check()
    except InputError as error:
        if len(run.configs) == 1:
            raise
        raise type(error)(f"job {config.name!r}: {error}") from error


def check_base(directory: Path) -> None:
    """Raises BaseModelError if `directory` is not a checkpoint that can be fingerprinted."""
    if not directory.exists():
        raise BaseModelError(
            f"base {str(directory)!r}: no such directory; give the folder of a downloaded model"
        )
    if not (directory / "config.json").is_file():
        raise BaseModelError(
            f"base {str(directory)!r} is not a model directory: it holds no config.json"
        )
    if not any(directory.glob("*.safetensors")):
        raise BaseModelError(
            f"base {str(directory)!r} holds no *.safetensors weights; convert it with transformers"
        )


def _check_sources(config: TrainConfig) -> None:
    check_base(config.base)
    for task in tasks_of(config):
        for part in PARTS:
            task.check_files(part)


def _check_resumable(directory: Path) -> None:
    there = (files.CHECKPOINT, files.CONFIG)
    if not any((directory / name).is_file() for name in there):
        raise CheckpointError(
            f"{directory / files.CHECKPOINT}: no checkpoint to resume from; start with --overwrite"
        )
