"""A task: what to ask, what is right, how to score. Written as YAML or as a Python module.

    name: support_summary
    data: support/test.jsonl          # rows {"input", "completion"}
    train: support/train.jsonl        # examples for the prompt and for trivial answers
    template: "Summarise.\\n{{ input }}\\nSummary:"
    metrics: [rougeL, rouge1]         # the first is the one gains are stated in
    max_tokens: 48
    stop: ["\\n"]

A Python module holds the same fields as `SPEC = TaskSpec(...)`, and may hold
`read_rows(path) -> Iterable[(line number, row)]` for a file format of its own.
"""

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from evalsuite import tasks
from evalsuite.data import Columns, RowReader, read_jsonl, read_samples, sha256_file
from evalsuite.errors import InputError, nearest
from evalsuite.metrics import MetricOptions, build_metrics
from evalsuite.types import Metric, Mode, Sample
from understudy.prompt import PromptError, PromptTemplate

BUILT_IN = Path(tasks.__path__[0])
_SUFFIXES = (".yaml", ".yml", ".py")


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TaskSpec:
    """The fields of a task file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    data: str
    """Test file; a relative path starts at --data-dir, or else at the task file's folder."""
    template: str
    """Prompt for the bare base, Jinja with the variable `input`. Adapters bring their own."""
    metrics: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names from `evalsuite.metrics`; the first is primary."""
    mode: Mode = Mode.GENERATE
    version: int | str = 1
    """Raise it when a change makes scores incomparable."""
    licence: str = "not stated"
    source: str = "not stated"
    train: str | None = None
    """Training file; without it there are no shots and no constant answer."""
    max_tokens: Annotated[int, Field(ge=1)] = 64
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    """Mode choice: the continuations, verbatim; empty when each row lists its own."""
    columns: Columns = Columns()
    options: MetricOptions = MetricOptions()


@dataclass(frozen=True, eq=False)
class Task:
    """A task with its data read and everything checked. Compared and hashed by identity."""

    spec: TaskSpec
    samples: tuple[Sample, ...]
    train: tuple[Sample, ...]
    """Training rows, without those whose input is also a test input."""
    metrics: tuple[Metric, ...]
    template: PromptTemplate
    data_sha256: str
    train_sha256: str | None

    @property
    def name(self) -> str:
        """The task's name."""
        return self.spec.name

    @property
    def template_sha256(self) -> str:
        """Hash of the base prompt's template."""
        return hashlib.sha256(self.spec.template.encode()).hexdigest()

    def prompt(self, sample: Sample) -> str:
        """The base prompt of one sample, without shots."""
        try:
            return self.template.render({"input": sample.input})
        except PromptError as error:
            raise InputError(f"task {self.name}: row {sample.id}: {error}") from error


def built_in_tasks() -> dict[str, Path]:
    """Names and files of the tasks that come with the suite."""
    return {
        path.stem: path
        for path in sorted(BUILT_IN.iterdir())
        if path.suffix in _SUFFIXES and path.stem != "__init__"
    }


def load_tasks(
    names: Sequence[str], data_dir: Path | None, limit: int | None = None
) -> tuple[Task, ...]:
    """The tasks of `--tasks`: built-in names, or paths of task files.

    `limit` keeps the first samples of each. Raises InputError for whatever does not fit.
    """
    loaded = tuple(_load(_find(name), data_dir, limit) for name in names)
    seen: set[str] = set()
    for task in loaded:
        if task.name in seen:
            raise InputError(f"--tasks: two tasks are named '{task.name}'")
        seen.add(task.name)
    return loaded


def _find(name: str) -> Path:
    if Path(name).suffix in _SUFFIXES:
        if not Path(name).is_file():
            raise InputError(f"--tasks: no file '{name}'")
        return Path(name)
    found = built_in_tasks()
    if name not in found:
        raise InputError(
            f"--tasks: no built-in task '{name}'; {nearest(name, found)} "
            "Own tasks are given by the path of their YAML file."
        )
    return found[name]


def read_spec(path: Path) -> tuple[TaskSpec, RowReader]:
    """A task file's fields, and the reader of its data files. Raises InputError."""
    if path.suffix == ".py":
        return _read_module(path)
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "unreadable"
        raise InputError(f"{path}{line}: not YAML: {problem}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not isinstance(fields, dict):
        raise InputError(f"{path}: expected fields such as 'name: ...', found no mapping")
    try:
        return TypeAdapter(TaskSpec).validate_python(fields), read_jsonl
    except ValidationError as error:
        raise InputError(f"{path}: {_explain(error)}") from error


def _read_module(path: Path) -> tuple[TaskSpec, RowReader]:
    found = importlib.util.spec_from_file_location(f"evalsuite_task_{path.stem}", path)
    if found is None or found.loader is None:
        raise InputError(f"{path}: not a Python module")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except ValidationError as error:
        raise InputError(f"{path}: {_explain(error)}") from error
    except Exception as error:
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error
    spec = getattr(module, "SPEC", None)
    if not isinstance(spec, TaskSpec):
        raise InputError(f"{path}: a task module needs `SPEC = TaskSpec(...)`")
    return spec, getattr(module, "read_rows", read_jsonl)


def _explain(error: ValidationError) -> str:
    """The first fault of a pydantic error, with the nearest valid key for an unknown one."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "unexpected_keyword_argument":
        owner: Any = {"columns": Columns, "options": MetricOptions}.get(
            str(first["loc"][0]) if len(first["loc"]) > 1 else "", TaskSpec
        )
        return f"unknown field '{where}'; {nearest(str(first['loc'][-1]), owner.__annotations__)}"
    if first["type"] in {"missing", "missing_argument"}:
        return f"field '{where}' is missing"
    fault = first["msg"][:1].lower() + first["msg"][1:]
    return f"field '{where}' is {first['input']!r}: {fault}"


def _load(path: Path, data_dir: Path | None, limit: int | None) -> Task:
    spec, read_rows = read_spec(path)
    folder = data_dir if data_dir is not None else path.parent
    try:
        template = PromptTemplate(spec.template)
    except PromptError as error:
        raise InputError(f"{path}: field 'template': {error}") from error
    if template.variables != {"input"}:
        names = ", ".join(sorted(template.variables))
        raise InputError(f"{path}: field 'template': uses {names}, expected the variable 'input'")
    if spec.mode is Mode.GENERATE and spec.choices:
        raise InputError(f"{path}: field 'choices' needs 'mode: choice'")
    if len(spec.choices) == 1 or len(set(spec.choices)) < len(spec.choices):
        raise InputError(f"{path}: field 'choices' needs at least two, all different")
    data = folder / spec.data
    samples = read_samples(data, read_rows, spec.columns, spec.mode, spec.choices)
    train: tuple[Sample, ...] = ()
    train_sha256 = None
    if spec.train is not None:
        file = folder / spec.train
        held_out = {sample.input for sample in samples}
        rows = read_samples(file, read_rows, spec.columns, spec.mode, spec.choices)
        train = tuple(row for row in rows if row.input not in held_out)
        train_sha256 = sha256_file(file)
        if not train:
            raise InputError(f"{file}: every row's input is also a test input of {data}")
    try:
        metrics = build_metrics(spec.metrics, spec.mode, spec.options, samples)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return Task(
        spec=spec,
        samples=samples[:limit],
        train=train,
        metrics=metrics,
        template=template,
        data_sha256=sha256_file(data),
        train_sha256=train_sha256,
    )
