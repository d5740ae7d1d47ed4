"""Reading data files: JSON lines, JSON, CSV and TSV in, rows out; faults named by file and line."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from evalsuite.errors import InputError, nearest

NumberedRow = tuple[int, dict[str, Any]]
RowReader = Callable[[Path], Iterable[NumberedRow]]

# The csv module's own limit, 128 KiB, is less than a long passage.
_MAX_CELL_CHARS = 64 * 1024 * 1024


class DataRow(dict[str, Any]):
    """One row of a data file. Whatever it lacks raises InputError with file, line and remedy."""

    def __init__(self, values: dict[str, Any], where: str, row_id: str) -> None:
        super().__init__(values)
        self.where = where
        """File and line, for messages."""
        self.id = row_id
        """The line number; behind the file's name where a task has several files."""

    def __missing__(self, name: str) -> Any:
        raise InputError(f"{self.where}: no column '{name}'; {nearest(name, self)}")

    def first(self, *names: str) -> str:
        """The first of these columns that the row has."""
        found = next((name for name in names if name in self), None)
        if found is None:
            wanted = " or ".join(f"'{name}'" for name in names)
            raise InputError(f"{self.where}: no column {wanted}; {nearest(names[0], self)}")
        return found

    def text(self, *names: str) -> str:
        """The text in the first of these columns that the row has."""
        name = self.first(*names)
        return as_text(self.where, name, self[name])

    def texts(self, name: str, least: int = 1) -> tuple[str, ...]:
        """A list of at least `least` texts."""
        value = self[name]
        if not isinstance(value, list) or len(value) < least:
            count = "one text" if least == 1 else "two texts" if least == 2 else f"{least} texts"
            raise InputError(f"{self.where}: '{name}' must be a list of at least {count}")
        return tuple(as_text(self.where, name, item) for item in value)

    def mapping(self, name: str) -> "DataRow":
        """An object within the row."""
        value = self[name]
        if not isinstance(value, dict):
            raise InputError(
                f"{self.where}: '{name}' is {type(value).__name__}, expected an object"
            )
        return DataRow(value, f"{self.where}: '{name}'", self.id)

    def mappings(self, name: str) -> list["DataRow"]:
        """A list of objects within the row."""
        value = self[name]
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise InputError(f"{self.where}: '{name}' must be a list of objects")
        return [
            DataRow(item, f"{self.where}: '{name}' {index}", self.id)
            for index, item in enumerate(value)
        ]

    def index(self, name: str, count: int) -> int:
        """A whole number from 0 to `count` - 1, as number or text."""
        value = self[name]
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise self._outside(name, value, count)
        try:
            number = int(value)
        except (TypeError, ValueError):
            raise self._outside(name, value, count) from None
        if not 0 <= number < count:
            raise self._outside(name, value, count)
        return number

    def _outside(self, name: str, value: object, count: int) -> InputError:
        shown = value if isinstance(value, int | float) else repr(value)
        hidden = "; the labels of this file are hidden" if str(value) == "-1" else ""
        return InputError(f"{self.where}: '{name}' is {shown}, expected 0 to {count - 1}{hidden}")

    def label(self, name: str, names: Sequence[str]) -> int:
        """The index of a label given by name, or as its index in `names`."""
        value = self[name]
        if isinstance(value, bool):
            value = str(value).lower()
        if isinstance(value, str) and not value.lstrip("-").isdigit():
            if value not in names:
                raise InputError(
                    f"{self.where}: '{name}' is '{value}', not one of the labels; "
                    f"{nearest(value, names)}"
                )
            return list(names).index(value)
        return self.index(name, len(names))


def as_text(where: str, name: str, value: Any) -> str:
    """`value`, if it is a text that UTF-8 can hold."""
    if not isinstance(value, str):
        raise InputError(f"{where}: '{name}' is {type(value).__name__}, expected text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: '{name}' holds half a surrogate pair") from error
    return value


def read_jsonl(path: Path) -> Iterator[NumberedRow]:
    """Line numbers (from 1) and objects of a JSON-lines file; blank lines are skipped.

    Raises InputError with file, line and fault.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _object(path, number, line)
    except OSError as error:
        raise _unreadable(path, error) from error


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
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


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises InputError with file, line and fault."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{error.lineno}: not JSON at column {error.colno}: "
            f"{error.msg.removesuffix(' at')}"
        ) from error
    except RecursionError as error:
        raise InputError(f"{path}: nested too deeply") from error


def read_json_rows(path: Path, key: str | None = None) -> Iterator[NumberedRow]:
    """Positions (from 1) and objects of a JSON list, which may stand under `key` of an object."""
    value = read_json(path)
    if key is not None:
        if not isinstance(value, dict) or key not in value:
            raise InputError(f"{path}: expected an object with the list '{key}'")
        value = value[key]
    if not isinstance(value, list):
        raise InputError(f"{path}: expected a list of rows, found {type(value).__name__}")
    for number, row in enumerate(value, start=1):
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: expected an object, found {type(row).__name__}")
        yield number, row


def read_text(path: Path) -> str:
    """A whole text file, without a byte order mark. Raises InputError."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}:{line}: not UTF-8 at byte {error.start} of the file; convert it, for example "
            "with iconv"
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def read_table(
    path: Path, delimiter: str, columns: Sequence[str] = (), *, quoted: bool = True
) -> Iterator[NumberedRow]:
    """Line numbers and rows of a CSV or TSV file.

    `columns` names the cells of a file without a header line. Raises InputError for a row with
    more or fewer cells than there are names.
    """
    csv.field_size_limit(_MAX_CELL_CHARS)
    quoting: Literal[0, 3] = 0 if quoted else 3  # QUOTE_MINIMAL, QUOTE_NONE
    # With newline="" the csv module itself finds the ends of rows, as it must within quotes.
    reader = csv.reader(io.StringIO(read_text(path), ""), delimiter=delimiter, quoting=quoting)
    names = list(columns)
    start = 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not cells:
                continue
            if not names:
                names = cells
                continue
            if len(cells) != len(names):
                raise InputError(
                    f"{path}:{line}: {len(cells)} cells, expected {len(names)}: {', '.join(names)}"
                )
            yield line, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}:{start}: not a table: {error}") from error


def read_rows(path: Path) -> Iterator[NumberedRow]:
    """The rows of a file by its suffix: .jsonl, .json (a list), .csv or .tsv, with a header line.

    TSV cells are taken verbatim, as GLUE's are; CSV cells may be quoted.
    """
    readers: dict[str, RowReader] = {
        ".json": read_json_rows,
        ".csv": lambda file: read_table(file, ","),
        ".tsv": lambda file: read_table(file, "\t", quoted=False),
    }
    return iter(readers.get(path.suffix, read_jsonl)(path))


def sha256_files(paths: Sequence[Path]) -> str:
    """Hex sha256 of a file's bytes, or over the names and hashes of several files.

    Raises InputError if one cannot be read.
    """
    hashes = []
    for path in paths:
        try:
            with path.open("rb") as file:
                hashes.append(hashlib.file_digest(file, "sha256").hexdigest())
        except OSError as error:
            raise _unreadable(path, error) from error
    if len(hashes) == 1:
        return hashes[0]
    listing = "".join(f"{path.name} {found}\n" for path, found in zip(paths, hashes, strict=True))
    return hashlib.sha256(listing.encode()).hexdigest()


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be read: {error.strerror}")
