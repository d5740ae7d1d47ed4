"""Readers of text files: JSON lines, a JSON array, comma or tab separated values.

A row's number is its first line; in a JSON array, its place there.
"""

import csv
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from trainer.data.row import Row
from trainer.errors import DataError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# csv's own limit is 128 KiB; a column may hold a whole document.
_MAX_FIELD_CHARS = 1 << 30


def json_line_rows(file: BinaryIO, name: str) -> Iterator[Row]:
    """The objects of a file of JSON lines; empty lines are skipped.

    Raises DataError naming `name` and the line: not UTF-8, not JSON, not an object, a number that
    is not finite.
    """
    for number, line in _numbered(file):
        if line.strip():
            yield _row(_parse(line, name, number), f"{name}:{number}")


def json_array_rows(file: BinaryIO, name: str) -> Iterator[Row]:
    """The objects of a JSON array, which is read whole. Raises DataError as `json_line_rows`."""
    content = file.read().removeprefix(BYTE_ORDER_MARK)
    for number, fields in enumerate(_parse(content, name, None), 1):
        yield _row(fields, f"{name}:{number}")


def csv_rows(file: BinaryIO, name: str, delimiter: str) -> Iterator[Row]:
    """The records of a delimited file whose first line names the columns; all values are text.

    Raises DataError naming `name` and the line: not UTF-8, quotes that do not close, a header with
    an empty or repeated name, a record with more or fewer values than the header.
    """
    csv.field_size_limit(_MAX_FIELD_CHARS)
    reader = csv.reader(_decoded(file, name), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        where = f"{name}:{reader.line_num + 1}"
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{where}: not valid CSV: {error}") from error
        if record is None:
            return
        if not record:
            continue
        if header is None:
            header = record
            _check_header(header, where)
            continue
        if len(record) != len(header):
            raise DataError(
                f"{where}: has {len(record)} values, the header names {len(header)} columns"
            )
        yield Row(dict(zip(header, record, strict=True)), where)


def _check_header(header: list[str], where: str) -> None:
    for index, column in enumerate(header, 1):
        if not column.strip():
            raise DataError(f"{where}: column {index} has no name; the first line must name all")
        if column in header[: index - 1]:
            raise DataError(f"{where}: column {column!r} is named twice")


def _numbered(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(file, 1):
        yield number, line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line


def _decoded(file: BinaryIO, name: str) -> Iterator[str]:
    for number, line in _numbered(file):
        yield _decode(line, f"{name}:{number}")


def _decode(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 at byte {error.start}") from error


def _row(fields: Any, where: str) -> Row:
    if not isinstance(fields, dict):
        kind = type(fields).__name__
        raise DataError(f"{where}: must be an object such as {{...}}, got a {kind}")
    return Row(fields, where)


def _parse(content: bytes, name: str, number: int | None) -> Any:
    """The JSON value in `content`: line `number`, or from the file's first line on."""

    def refuse(token: str) -> Any:
        raise ValueError(f"{token} is not a JSON number")

    where = name if number is None else f"{name}:{number}"
    text = _decode(content, where).rstrip("\r\n")
    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        line = error.lineno if number is None else number
        raise DataError(
            f"{name}:{line}: not valid JSON: {error.msg} at column {error.colno}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON: {error}") from error
