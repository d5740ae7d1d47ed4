"""Finding tasks and loading them: built-in names or task files, with the data they name."""

import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from evalsuite import tasks
from evalsuite.data import sha256_files
from evalsuite.errors import InputError, nearest
from evalsuite.hub import PREFIX, fetched
from evalsuite.metrics import build_metrics
from evalsuite.names import TaskName
from evalsuite.perturbations import Perturbation, perturbation, perturbed
from evalsuite.samples import Convert, read_samples
from evalsuite.spool import SampleSpool
from evalsuite.subsets import Subset, split_subset
from evalsuite.task import Definition, Task, TaskSpec, patterns
from evalsuite.taskfile import SUFFIXES, check_spec, read_definitions
from evalsuite.training import InputHashes, TrainingRows
from evalsuite.types import Mode, Sample

BUILT_IN = Path(tasks.__path__[0])


@dataclass(frozen=True)
class Found:
    """A task's definition, the file it stands in, and what was given with its name."""

    definition: Definition
    path: Path
    data: Path | None = None
    subset: Subset | None = None
    perturbation: Perturbation | None = None


@lru_cache(maxsize=1)
def built_in_tasks() -> dict[str, Found]:
    """The tasks that come with the suite, by name."""
    found = [
        Found(definition, path)
        for path in sorted(BUILT_IN.glob("*.yaml"))
        for definition in read_definitions(path)
    ]
    for module in pkgutil.iter_modules([str(BUILT_IN)]):
        path = BUILT_IN / f"{module.name}.py"
        loaded = importlib.import_module(f"{tasks.__name__}.{module.name}")
        found += [Found(definition, path) for definition in getattr(loaded, "TASKS", ())]
    return {item.definition.spec.name: item for item in found}


def load_tasks(
    names: Sequence[str], data_dir: Path | None, limit: int | None = None
) -> tuple[Task, ...]:
    """The tasks of `--tasks`: built-in names, or paths of task files.

    `NAME=PATH` names a task's data (on the hub `hf:REPO:CONFIG:SPLIT`), `NAME+typos` the same with
    changed inputs, `NAME@random:100:7` a subset of it: `first`, `random` or `stratified`, its size
    and for the latter two a seed. `limit` is the size of the first samples of tasks without a
    subset. Raises InputError for whatever does not fit.
    """
    first = None if limit is None else Subset(limit)
    loaded = tuple(load(item, data_dir, first) for name in names for item in find(name))
    seen: set[str] = set()
    for task in loaded:
        if task.name in seen:
            raise InputError(f"--tasks: two tasks are named '{task.name}'")
        seen.add(task.name)
    return loaded


def with_perturbations(tasks: Sequence[str], perturbations: Sequence[str]) -> tuple[str, ...]:
    """The names of all tasks, and behind each the same one under each perturbation.

    Texts that are weighed as they stand have no inputs to change. Raises InputError.
    """
    named = []
    for text in tasks:
        named.append(text)
        parts = TaskName.parse(text)
        if not perturbations or parts.perturbation:
            continue
        if any(found.definition.spec.mode is not Mode.LIKELIHOOD for found in find(text)):
            named += [str(replace(parts, perturbation=one)) for one in perturbations]
    return tuple(named)


def find(name: str) -> tuple[Found, ...]:
    """The tasks that a built-in name or a task file's path stands for. Raises InputError."""
    parts = TaskName.parse(name)
    name, subset = split_subset(parts.name + parts.subset)
    changed = perturbation(parts.perturbation) if parts.perturbation else None
    given = Path(parts.data) if parts.data else None
    if parts.data.startswith(PREFIX):
        given = fetched(parts.data)
    if Path(name).suffix in SUFFIXES:
        if not Path(name).is_file():
            raise InputError(f"--tasks: no file '{name}'")
        return tuple(
            Found(item, Path(name), given, subset, changed) for item in read_definitions(Path(name))
        )
    found = built_in_tasks()
    if name not in found:
        raise InputError(
            f"--tasks: no built-in task '{name}'; {_remedy(name, found)} "
            "Own tasks are given by the path of their YAML file."
        )
    return (Found(found[name].definition, found[name].path, given, subset, changed),)


def _remedy(name: str, known: Iterable[str]) -> str:
    close = nearest(name, known)
    return close if close.startswith("did") else "`python -m evalsuite tasks` lists them."


def load(found: Found, data_dir: Path | None, subset: Subset | None = None) -> Task:
    """Reads and checks a task's data. Raises InputError."""
    subset = found.subset or subset
    definition, spec, path = found.definition, found.definition.spec, found.path
    template = check_spec(path, spec)
    folder = data_dir
    if found.data is not None:
        folder = found.data if found.data.is_dir() else found.data.parent
    elif folder is None:
        folder = path.parent
    if found.data is not None and not found.data.exists():
        raise InputError(
            f"--tasks: no file or folder '{found.data}' with the data of '{spec.name}'"
        )
    if not folder.is_dir():
        raise InputError(f"{folder}: no such directory; it should hold the data of '{spec.name}'")
    given = found.data if found.data is not None and not found.data.is_dir() else None
    files = [given] if given is not None else _files(spec, spec.data, folder)
    samples = _all_samples(files, definition, definition.convert)
    needs_train = given is None and not spec.folder
    train, train_sha256 = _train(definition, folder, files, samples, needs_train)
    if found.perturbation is not None:
        if spec.mode is Mode.LIKELIHOOD:
            raise InputError(
                f"--tasks: '{spec.name}' weighs texts as they stand; it has no inputs for "
                f"'{found.perturbation.name}' to change"
            )
        # Training rows, and which of them are test rows, stay those of the task unperturbed.
        convert = perturbed(definition.convert, found.perturbation, spec.columns.fields)
        samples = _all_samples(files, definition, convert)
    try:
        metrics = build_metrics(spec.metrics, spec.mode, spec.options, samples)
    except InputError as error:
        # The options of a built-in task are right; what it was given is not.
        at_fault = files[0] if path.parent == BUILT_IN else path
        raise InputError(f"{at_fault}: {error}") from error
    return Task(
        spec=spec,
        samples=samples if subset is None else subset.of(samples),
        train=train,
        metrics=metrics,
        template=template,
        data_sha256=sha256_files(files),
        train_sha256=train_sha256,
        subset="all" if subset is None else str(subset),
        perturbation=found.perturbation,
    )


def _all_samples(files: Sequence[Path], definition: Definition, convert: Convert) -> SampleSpool:
    rows = read_samples(files, definition.read_rows, convert, definition.spec.mode)
    return SampleSpool(samples=rows)


def _train(
    definition: Definition,
    folder: Path,
    files: Sequence[Path],
    samples: Sequence[Sample],
    is_needed: bool,
) -> tuple[TrainingRows, str | None]:
    """Training rows that are no test rows, and the hash of their files."""
    spec = definition.spec
    if spec.train is None:
        return TrainingRows(), None
    train_files = _files(spec, spec.train, folder, is_needed)
    # A published test set may come alone, or the training file itself be the one to test on.
    if not train_files or set(train_files) & set(files):
        return TrainingRows(), None
    held_out = InputHashes(samples if spec.shots.held_out else ())
    rows = read_samples(train_files, definition.read_rows, definition.convert, spec.mode)
    train = TrainingRows(row for row in rows if row.input not in held_out)
    if not train:
        raise InputError(f"{train_files[0]}: every row's input is also a test input of {files[0]}")
    return train, sha256_files(train_files)


def _files(
    spec: TaskSpec, data: str | Sequence[str], folder: Path, is_needed: bool = True
) -> list[Path]:
    """The files that the first fitting alternative stands for; none if they are not needed.

    A single plain file name is returned unseen, so that reading it tells what is wrong.
    """
    alternatives, below = patterns(data), spec.folder
    for pattern in alternatives:
        for base in (folder / below, folder) if below else (folder,):
            if Path(pattern).is_absolute() or "*" not in pattern:
                matches = [base / pattern] if (base / pattern).is_file() else []
            else:
                matches = sorted(path for path in base.glob(pattern) if path.is_file())
            if matches:
                return matches
    if not is_needed:
        return []
    if len(alternatives) == 1 and "*" not in alternatives[0] and not below:
        return [folder / alternatives[0]]
    raise InputError(
        f"{folder}: no data of task '{spec.name}'; looked for {', '.join(alternatives)}"
        + (f", there or in {below}/" if below else "")
        + f"; they come from {spec.source}"
    )
