"""Reading task files: YAML, or Python modules."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from evalsuite.data import read_rows
from evalsuite.errors import InputError, nearest
from evalsuite.metrics import MetricOptions
from evalsuite.samples import Columns
from evalsuite.task import Definition, ShotRule, TaskSpec
from evalsuite.types import Mode
from understudy.prompt import PromptError, PromptTemplate

SUFFIXES = (".yaml", ".yml", ".py")
_PARTS: dict[str, Any] = {"columns": Columns, "options": MetricOptions, "shots": ShotRule}


def read_definitions(path: Path) -> tuple[Definition, ...]:
    """The tasks of a file, checked as far as they can be without data. Raises InputError."""
    if path.suffix == ".py":
        found = _of_module(path, _import(path))
    else:
        found = (Definition.of_columns(_read_yaml(path)),)
    for definition in found:
        check_spec(path, definition.spec)
    return found


def _read_yaml(path: Path) -> TaskSpec:
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
        return TypeAdapter(TaskSpec).validate_python(fields)
    except ValidationError as error:
        raise InputError(f"{path}: {_explain(error)}") from error


def _import(path: Path) -> ModuleType:
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
    return module


def _of_module(path: Path, module: ModuleType) -> tuple[Definition, ...]:
    several = getattr(module, "TASKS", None)
    if several is not None:
        if not isinstance(several, tuple) or not all(isinstance(d, Definition) for d in several):
            raise InputError(f"{path}: TASKS must be a tuple of Definition")
        return several
    spec = getattr(module, "SPEC", None)
    if not isinstance(spec, TaskSpec):
        raise InputError(f"{path}: a task module needs `SPEC = TaskSpec(...)` or TASKS")
    return (Definition.of_columns(spec, getattr(module, "read_rows", read_rows)),)


def check_spec(path: Path, spec: TaskSpec) -> PromptTemplate:
    """The parsed template of a spec whose fields fit each other. Raises InputError."""
    try:
        template = PromptTemplate(spec.template)
    except PromptError as error:
        raise InputError(f"{path}: field 'template': {error}") from error
    inputs = spec.columns.input_names
    extra = template.variables - {*inputs, *spec.columns.fields}
    if template.variables.isdisjoint(inputs) or (extra and path.suffix != ".py"):
        names = ", ".join(sorted(template.variables))
        raise InputError(
            f"{path}: field 'template': uses {names}, expected the variable "
            + " or ".join(f"'{name}'" for name in inputs)
            + " (columns.input names the input's column, columns.fields further ones)"
        )
    if "{" in spec.description:
        try:
            PromptTemplate(spec.description)
        except PromptError as error:
            raise InputError(f"{path}: field 'description': {error}") from error
    if spec.choices and spec.mode.answered_as is not Mode.CHOICE:
        raise InputError(f"{path}: field 'choices' needs 'mode: choice'")
    if len(spec.choices) == 1 or len(set(spec.choices)) < len(spec.choices):
        raise InputError(f"{path}: field 'choices' needs at least two, all different")
    return template


def _explain(error: ValidationError) -> str:
    """The first fault of a pydantic error, with the nearest valid key for an unknown one."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "unexpected_keyword_argument":
        owner: Any = _PARTS.get(str(first["loc"][0]) if len(first["loc"]) > 1 else "", TaskSpec)
        return f"unknown field '{where}'; {nearest(str(first['loc'][-1]), owner.__annotations__)}"
    if first["type"] in {"missing", "missing_argument"}:
        return f"field '{where}' is missing"
    fault = first["msg"][:1].lower() + first["msg"][1:]
    return f"field '{where}' is {first['input']!r}: {fault}"
