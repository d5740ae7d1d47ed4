"""A run's folder: what it holds, who writes into it, and how to go on from it."""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trainer import files
from trainer.config import DatasetConfig, TaskConfig, TrainConfig
from trainer.config.data import PATH_KEYS
from trainer.config_file import config_to_json, parse_config
from trainer.errors import CheckpointError, ConfigError
from trainer.run_file import Run
from trainer.writing import check_writable, write_json
from understudy.artifact import ArtifactError
from understudy.locks import LOCKS_FILE, StoreLocks

FORMAT = 1
LOCK = "run"


@contextlib.contextmanager
def locked(run: Run) -> Iterator[None]:
    """Makes the folders of `run` and keeps other processes out of them.

    The locks end with the process. Where the file system has none, nobody is kept out.
    Raises ConfigError if a folder cannot be made, CheckpointError if another process has one.
    """
    with contextlib.ExitStack() as stack:
        for directory in run.directories:
            make(directory)
            stack.enter_context(alone_in(directory))
        yield


def make(directory: Path) -> None:
    """Makes a folder that output goes to, with those above it. Raises ConfigError."""
    check_writable("key 'output.dir'", directory)
    directory.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Keeps other processes out of one folder, which exists. Raises as `locked`."""
    with contextlib.ExitStack() as stack:
        try:
            locks = stack.enter_context(StoreLocks(directory, required=False))
            free = locks.take(LOCK)
        except ArtifactError as error:
            raise ConfigError(f"key 'output.dir': {str(directory)!r}: {error}") from error
        if not free:
            raise CheckpointError(
                f"{directory}: another process is training in this folder; wait until it ends, or "
                "set another output.dir"
            )
        yield


def check_free(run: Run) -> None:
    """Raises ConfigError if a folder is a file, cannot be written, or holds what is read where the
    run would replace it, CheckpointError if another process has one."""
    stores = [config.output.store for config in run.configs if config.output.store is not None]
    for key, folders in (("dir", run.directories), ("store", tuple(stores))):
        for folder in folders:
            if folder.exists() and not folder.is_dir():
                raise ConfigError(f"key 'output.{key}': {str(folder)!r} is a file")
            check_writable(f"key 'output.{key}'", folder)
    for config in run.configs:
        for directory in run.directories:
            check_apart(config, directory, (*files.OWN, files.TOKENS))
    for directory in run.directories:
        if (directory / LOCKS_FILE).exists():
            with alone_in(directory):
                pass


def _kept(config: TrainConfig) -> Iterator[tuple[str, Path]]:
    """Key and path of everything that a run reads, and of what outlives it."""
    yield "base", config.base
    yield "output.dir", config.output.dir
    if config.output.store is not None:
        yield "output.store", config.output.store
    for key in PATH_KEYS:
        for path in _paths_in(getattr(config.data, key)):
            yield f"data.{key}", path


def _paths_in(value: Any) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, DatasetConfig):
        yield Path(value.dataset)
    elif isinstance(value, TaskConfig):
        yield from _paths_in((value.files, value.validation))
    elif isinstance(value, tuple):
        for inner in value:
            yield from _paths_in(inner)


def check_apart(config: TrainConfig, directory: Path, names: Sequence[str]) -> None:
    """Raises ConfigError if something that `config` names is, or lies in, what a new run replaces:
    `names` in `directory`."""
    for key, path in _kept(config):
        for name in names:
            own = directory / name
            if path.resolve().is_relative_to(own.resolve()):
                raise ConfigError(
                    f"key '{key}': {str(path)!r} would be replaced by what the run writes to "
                    f"{str(own)!r}; set another output.dir"
                )


def check_unused(run: Run) -> None:
    """Raises CheckpointError if a run is there already, saying how to go on."""
    for directory in run.directories:
        found = next((name for name in files.OWN if (directory / name).exists()), None)
        if found is None:
            continue
        if (directory / files.CONFIG).is_file() and not (directory / files.SUMMARY).is_file():
            raise CheckpointError(
                f"{directory}: holds an interrupted run; continue it with `python -m trainer "
                f"resume {directory}`, replace it with --overwrite, or set another output.dir"
            )
        raise CheckpointError(
            f"{directory}: holds a run already ({found}); replace it with --overwrite, or set "
            "another output.dir"
        )


def begin(run: Run, *, keep: bool) -> None:
    """Notes in the folder what runs there; `keep` leaves what an interrupted run wrote."""
    for directory in run.directories:
        (directory / files.SUMMARY).unlink(missing_ok=True)
        (directory / files.CHECKPOINT).with_suffix(".tmp").unlink(missing_ok=True)
        if not keep:
            for name in (files.CHECKPOINT, files.METRICS, files.PLOT, files.PAGE, files.CONFIG):
                (directory / name).unlink(missing_ok=True)
            for name in (files.ADAPTER, files.BASE, files.TENSORBOARD):
                shutil.rmtree(directory / name, ignore_errors=True)
    content = {
        "format": FORMAT,
        "working_directory": str(Path.cwd()),
        "directory": str(run.directory),
        "jobs": [config_to_json(config) for config in run.configs],
    }
    write_json(run.directory / files.CONFIG, content)


def remembered(directory: Path) -> tuple[Run, Path]:
    """The run that `directory` holds, and the folder in which its paths start.

    Raises CheckpointError if there is none.
    """
    path = directory / files.CONFIG
    if not path.is_file():
        whole = directory.resolve().parent
        if (whole / files.CONFIG).is_file():
            raise CheckpointError(
                f"{directory}: is one job of a run; continue all of it with `python -m trainer "
                f"resume {directory.parent}`"
            )
        raise CheckpointError(f"{directory}: holds no run to resume (no {files.CONFIG})")
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise CheckpointError(f"{path}: not of this version; train with --resume instead")
        configs = tuple(parse_config(job, str(path)) for job in content["jobs"])
        working_directory = Path(content["working_directory"])
        run = Run(Path(content["directory"]), configs)
        if not configs:
            raise ValueError("no jobs")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path}: damaged; train the configuration again with --resume"
        ) from error
    # It may have moved since, its jobs' folders with it.
    where = directory.resolve()
    before = working_directory / run.directory
    configs = tuple(_moved(config, working_directory, before, where) for config in configs)
    return Run(where, configs), working_directory if working_directory.is_dir() else Path.cwd()


def _moved(config: TrainConfig, start: Path, before: Path, now: Path) -> TrainConfig:
    """`config` with its output folder under `now` where it was under `before`."""
    folder = start / config.output.dir
    if not folder.is_relative_to(before):
        return config
    output = dataclasses.replace(config.output, dir=now / folder.relative_to(before))
    return dataclasses.replace(config, output=output)
