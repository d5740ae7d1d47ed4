"""The tasks of a run: one, or those of a mixture, each as if it were a run of its own."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from trainer import data
from trainer.config import TaskConfig, TrainConfig
from trainer.data import Source
from trainer.errors import ConfigError

# What a task may say in its own way. Of the wordings, one replaces all.
OWN_KEYS = ("validation", "format", "completion_column")
WORDING_KEYS = ("template", "template_name", "templates")


@dataclass(frozen=True)
class Task:
    """One task; `config` is the run's with what the task has of its own."""

    config: TrainConfig
    name: str = ""
    """Empty for a run without tasks."""
    weight: float = 1.0
    max_examples: int | None = None

    @property
    def shares(self) -> tuple[float, float]:
        """Shares of its rows to hold out for validation and test; 0 where they are files."""
        held = (self.config.data.validation, self.config.data.test)
        validation, test = (float(v) if isinstance(v, float | int) else 0.0 for v in held)
        return validation, test

    def sources(self, part: str) -> tuple[Source, ...]:
        """Files and data sets of a part, opened; none where it is a share. Raises DataError."""
        entries = getattr(self.config.data, part)
        if isinstance(entries, float | int):
            return ()
        return tuple(
            data.open_source(entry) for entry in entries if not isinstance(entry, TaskConfig)
        )

    def check_files(self, part: str) -> None:
        """Raises DataError if a file of a part is not there, or its format is not known."""
        entries = getattr(self.config.data, part)
        for entry in () if isinstance(entries, float | int) else entries:
            if isinstance(entry, Path):
                data.open_source(entry)


def tasks_of(config: TrainConfig) -> tuple[Task, ...]:
    """The tasks of a run. Raises ConfigError where they contradict each other."""
    entries = config.data.train
    tasks = [entry for entry in entries if isinstance(entry, TaskConfig)]
    if not tasks:
        if config.data.mixture is not None:
            raise ConfigError("key 'data.mixture': data.train has no tasks to mix; leave it out")
        found: tuple[Task, ...] = (Task(config),)
    else:
        _check_mixture(config, tasks)
        found = tuple(_task(config, task) for task in tasks)
    for task in found:
        if sum(task.shares) >= 1:
            raise ConfigError(
                f"keys 'data.validation' and 'data.test': {task.shares[0]} and {task.shares[1]} "
                "leave nothing to train on; together they must be less than 1"
            )
    return found


def _check_mixture(config: TrainConfig, tasks: list[TaskConfig]) -> None:
    settings = config.data
    if len(tasks) < len(settings.train):
        raise ConfigError(
            "key 'data.train': holds tasks and files; give each file to a task, or only files"
        )
    names = [task.name for task in tasks]
    for index, name in enumerate(names):
        if not name.strip():
            raise ConfigError(f"key 'data.train[{index}].name': is empty; metrics go by it")
        if name in names[:index]:
            raise ConfigError(f"key 'data.train[{index}].name': {name!r} is another task's, too")
    for key in ("validation", "test"):
        if not isinstance(getattr(settings, key), float | int):
            raise ConfigError(
                f"key 'data.{key}': is for a run without tasks; give a share, or files to each task"
            )
    for index, task in enumerate(tasks):
        given = [key for key in WORDING_KEYS if getattr(task, key) is not None]
        if len(given) > 1:
            keys = " and ".join(f"'data.train[{index}].{key}'" for key in given)
            raise ConfigError(f"keys {keys}: give one of them")
    mixture = settings.mixture
    if mixture and mixture.temperature is not None and mixture.sampling != "temperature":
        raise ConfigError(
            f"key 'data.mixture.temperature': sampling is {mixture.sampling!r}; set it to "
            "temperature, or leave this out"
        )
    if mixture and mixture.limit is not None and mixture.sampling == "equal":
        raise ConfigError("key 'data.mixture.limit': equal sampling counts no examples; leave it")


def _task(config: TrainConfig, task: TaskConfig) -> Task:
    own = {key: getattr(task, key) for key in OWN_KEYS if getattr(task, key) is not None}
    if any(getattr(task, key) is not None for key in WORDING_KEYS):
        own |= {key: getattr(task, key) for key in WORDING_KEYS}
    settings = dataclasses.replace(config.data, train=task.files, mixture=None, **own)
    return Task(
        dataclasses.replace(config, data=settings), task.name, task.weight, task.max_examples
    )
