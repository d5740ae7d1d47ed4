"""Reading data files: JSON lines in, samples out, every fault named by file and line."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from evalsuite.errors import InputError, nearest
from evalsuite.types import Mode, Sample

NumberedRow = tuple[int, dict[str, Any]]
RowReader = Callable[[Path], Iterable[NumberedRow]]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Columns:
    """Names of the columns of a data file."""

    input: str = "input"
    completion: str = "completion"
    """A text, or a list of texts that are all right."""
    label: str = "label"
    """Mode choice: one of the choices, or its index. Rows without it are read from `completion`."""
    choices: str = "choices"
    """Mode choice, where the task lists no choices: each row's own list."""


def read_jsonl(path: Path) -> Iterator[NumberedRow]:
    """Line numbers (from 1) and objects of a JSON-lines file; blank lines are skipped.

    Raises InputError with file, line and fault.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _parse(path, number, line)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8").rstrip())
    except UnicodeDecodeError as error:
        raise InputError(f"{path}:{number}: not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{number}: not JSON at column {error.colno}: {error.msg.removesuffix(' at')}"
        ) from error
    except RecursionError as error:
        raise InputError(f"{path}:{number}: nested too deeply") from error
    if not isinstance(row, dict):
        raise InputError(f"{path}:{number}: expected an object, found {type(row).__name__}")
    return row


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes. Raises InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def read_samples(
    path: Path,
    read_rows: RowReader,
    columns: Columns,
    mode: Mode,
    choices: tuple[str, ...],
) -> tuple[Sample, ...]:
    """All samples of a data file. Raises InputError at the first row that does not fit."""
    samples = tuple(
        _sample(f"{path}:{number}", number, row, columns, mode, choices)
        for number, row in read_rows(path)
    )
    if not samples:
        raise InputError(f"{path}: no rows")
    return samples


def _sample(
    where: str,
    number: int,
    row: dict[str, Any],
    columns: Columns,
    mode: Mode,
    choices: tuple[str, ...],
) -> Sample:
    text = _text(where, columns.input, _column(where, row, columns.input))
    if mode is Mode.GENERATE:
        return Sample(str(number), text, _references(where, row, columns.completion))
    own = choices or _choices(where, row, columns.choices)
    target = _target(where, row, columns, own)
    return Sample(str(number), text, (own[target],), own, target)


def _column(where: str, row: dict[str, Any], name: str) -> Any:
    if name not in row:
        raise InputError(f"{where}: no column '{name}'; {nearest(name, row)}")
    return row[name]


def _text(where: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: '{name}' is {type(value).__name__}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: '{name}' holds half a surrogate pair") from error
    return value


def _references(where: str, row: dict[str, Any], name: str) -> tuple[str, ...]:
    value = _column(where, row, name)
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(_text(where, name, text).strip() for text in texts):
        raise InputError(f"{where}: '{name}' is empty; every row needs at least one reference")
    return tuple(texts)


def _choices(where: str, row: dict[str, Any], name: str) -> tuple[str, ...]:
    value = _column(where, row, name)
    if not isinstance(value, list) or len(value) < 2:
        raise InputError(f"{where}: '{name}' must be a list of at least two texts")
    return tuple(_text(where, name, choice) for choice in value)


def _target(where: str, row: dict[str, Any], columns: Columns, choices: tuple[str, ...]) -> int:
    name = columns.label if columns.label in row else columns.completion
    value = _column(where, row, name)
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < len(choices):
            raise InputError(f"{where}: '{name}' is {value}, expected 0 to {len(choices) - 1}")
        return value
    stripped = [choice.strip() for choice in choices]
    label = _text(where, name, value).strip()
    if label not in stripped:
        raise InputError(
            f"{where}: '{name}' is '{label}', not one of the choices; {nearest(label, stripped)}"
        )
    return stripped.index(label)
