"""Finding tasks and loading them: built-in names or task files, with the data they name."""

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from evalsuite import tasks
from evalsuite.data import sha256_files
from evalsuite.errors import InputError, nearest
from evalsuite.metrics import build_metrics
from evalsuite.samples import read_samples
from evalsuite.subsets import Subset
from evalsuite.task import Definition, Task, patterns
from evalsuite.taskfile import SUFFIXES, check_spec, read_definitions
from evalsuite.types import Sample

BUILT_IN = Path(tasks.__path__[0])


@dataclass(frozen=True)
class Found:
    """A task's definition, the file it stands in, and the data path given with its name."""

    definition: Definition
    path: Path
    data: Path | None = None


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
    names: Sequence[str],
    data_dir: Path | None,
    limit: int | None = None,
    subset: Subset | None = None,
) -> tuple[Task, ...]:
    """The tasks of `--tasks`: built-in names, or paths of task files; `NAME=PATH` names the data.

    `limit` keeps the first samples of each, `subset` others. Raises InputError for whatever does
    not fit.
    """
    chosen = subset if subset is not None or limit is None else Subset(limit)
    loaded = tuple(load(item, data_dir, chosen) for name in names for item in find(name))
    seen: set[str] = set()
    for task in loaded:
        if task.name in seen:
            raise InputError(f"--tasks: two tasks are named '{task.name}'")
        seen.add(task.name)
    return loaded


def find(name: str) -> tuple[Found, ...]:
    """The tasks that a built-in name or a task file's path stands for. Raises InputError."""
    name, _, data = name.partition("=")
    given = Path(data) if data else None
    if Path(name).suffix in SUFFIXES:
        if not Path(name).is_file():
            raise InputError(f"--tasks: no file '{name}'")
        return tuple(Found(item, Path(name), given) for item in read_definitions(Path(name)))
    found = built_in_tasks()
    if name not in found:
        raise InputError(
            f"--tasks: no built-in task '{name}'; {nearest(name, found)} "
            "Own tasks are given by the path of their YAML file."
        )
    return (Found(found[name].definition, found[name].path, given),)


def load(found: Found, data_dir: Path | None, subset: Subset | None = None) -> Task:
    """Reads and checks a task's data. Raises InputError."""
    definition, spec, path = found.definition, found.definition.spec, found.path
    template = check_spec(path, spec)
    folder = data_dir
    if found.data is not None:
        folder = found.data if found.data.is_dir() else found.data.parent
    elif folder is None:
        folder = path.parent
    if not folder.is_dir():
        raise InputError(f"{folder}: no such directory; it should hold the data of '{spec.name}'")
    given = found.data if found.data is not None and not found.data.is_dir() else None
    files = [given] if given is not None else _files(spec.name, spec.data, spec.folder, folder)
    samples = read_samples(files, definition.read_rows, definition.convert, spec.mode)
    needs_train = given is None and not spec.folder
    train, train_sha256 = _train(definition, folder, files, samples, needs_train)
    try:
        metrics = build_metrics(spec.metrics, spec.mode, spec.options, samples)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return Task(
        spec=spec,
        samples=samples if subset is None else subset.of(samples),
        train=train,
        metrics=metrics,
        template=template,
        data_sha256=sha256_files(files),
        train_sha256=train_sha256,
        subset="all" if subset is None else str(subset),
    )


def _train(
    definition: Definition,
    folder: Path,
    files: Sequence[Path],
    samples: Sequence[Sample],
    is_needed: bool,
) -> tuple[tuple[Sample, ...], str | None]:
    """Training rows that are no test rows, and the hash of their files."""
    spec = definition.spec
    if spec.train is None:
        return (), None
    train_files = _files(spec.name, spec.train, spec.folder, folder, is_needed)
    # A published test set may come alone, or the training file itself be the one to test on.
    if not train_files or set(train_files) & set(files):
        return (), None
    held_out = {sample.input for sample in samples}
    rows = read_samples(train_files, definition.read_rows, definition.convert, spec.mode)
    train = tuple(row for row in rows if row.input not in held_out)
    if not train:
        raise InputError(f"{train_files[0]}: every row's input is also a test input of {files[0]}")
    return train, sha256_files(train_files)


def _files(
    name: str, data: str | Sequence[str], below: str, folder: Path, is_needed: bool = True
) -> list[Path]:
    """The files that the first fitting alternative stands for; none if they are not needed.

    A single plain file name is returned unseen, so that reading it tells what is wrong.
    """
    alternatives = patterns(data)
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
    if len(alternatives) == 1 and "*" not in alternatives[0]:
        return [folder / alternatives[0]]
    raise InputError(
        f"{folder}: no data of task '{name}'; looked for {', '.join(alternatives)}"
        + (f", there or in {below}/" if below else "")
    )
