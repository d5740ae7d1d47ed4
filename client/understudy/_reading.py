"""Reads an artifact's JSON and safetensors headers. Every file is data from elsewhere.

Sizes, depths and numbers are bounded before they are parsed.
"""

import json
import math
import os
import re
import stat
import struct
from collections import Counter
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

# Beyond this a JSON file or a safetensors header is an attack, not a configuration.
MAX_JSON_BYTES = 1 << 20
MAX_HEADER_BYTES = 16 << 20
# More digits than any integer of a configuration has: long ones take time by their square.
_MAX_DIGITS = 40
_MANY_DIGITS = re.compile(rf"\d{{{_MAX_DIGITS}}}", re.ASCII)
_MAX_DIMS = 16


class ArtifactError(ValueError):
    """An artifact, a store or a checkpoint is not what it should be. The message says where."""


def parse_json_object(text: str, where: str) -> dict[str, Any]:
    """A JSON object; duplicate keys, non-finite numbers and lone surrogates are errors.

    Raises ArtifactError.
    """

    def reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice = next(key for key, count in counts.items() if count > 1)
            raise ArtifactError(f"{where}: duplicate key {shorten(twice)}")
        return found

    def reject_constant(token: str) -> Any:
        raise ArtifactError(f"{where}: {token} is not a JSON number")

    def finite(token: str) -> float:
        number = float(token)
        return number if math.isfinite(number) else reject_constant(token[:80])

    def whole(token: str) -> int:
        if len(token) > _MAX_DIGITS:
            raise ArtifactError(f"{where}: {token[:_MAX_DIGITS]}... has {len(token)} digits")
        return int(token)

    try:
        data = json.loads(
            text,
            object_pairs_hook=reject_duplicates,
            parse_constant=reject_constant,
            parse_float=finite,
            # Python's own is far faster, and takes what has few digits alike.
            parse_int=whole if _MANY_DIGITS.search(text) else int,
        )
        # An escape may hold half of a surrogate pair, which is no character anywhere else.
        if "\\u" in text:
            json.dumps(data, ensure_ascii=False).encode()
    except ArtifactError:
        raise
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise ArtifactError(f"{where}: must hold a JSON object")
    return data


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of at most MAX_JSON_BYTES. Raises ArtifactError."""
    return parse_json_object(read_text(path), path.name)


def read_text(path: Path, max_bytes: int = MAX_JSON_BYTES) -> str:
    """A UTF-8 file of at most `max_bytes`. Raises ArtifactError."""
    try:
        with open_file(path) as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise ArtifactError(f"{path.name}: larger than {max_bytes} bytes")
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path.name}: not UTF-8: {error}") from error
    except OSError as error:
        raise ArtifactError(f"{path.name}: cannot be read: {error.strerror}") from error


def open_file(path: Path) -> BufferedReader:
    """A regular file, open for reading. Raises ArtifactError for anything else, and OSError.

    Never waits: a pipe without a writer would take its reader along.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArtifactError(f"{path.name}: not a regular file")
    return open(descriptor, "rb")


def shorten(value: object, max_chars: int = 80) -> str:
    """A value for a message, in quotes if it is text; not all of it if it is long."""
    if isinstance(value, str):
        # Before it is quoted: it may be very long.
        return repr(value[:max_chars]) + ("..." if len(value) > max_chars else "")
    text = repr(value)
    return text if len(text) <= max_chars else text[: max_chars - 3] + "..."


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a safetensors file: its bytes are file[begin:end]."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


_DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


def read_safetensors_header(path: Path) -> list[TensorEntry]:
    """The tensors of a safetensors file, with every offset checked against the file's size.

    Reads the header only. Raises ArtifactError if the file is not safetensors, the header is
    over MAX_HEADER_BYTES, or sizes, offsets and shapes do not agree.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            header = take_safetensors_header(file, size, path.name)
            return parse_safetensors_header(header, size, path.name)
    except OSError as error:
        raise ArtifactError(f"{path.name}: cannot be read: {error.strerror}") from error


def take_safetensors_header(
    file: BinaryIO, size: int, where: str, max_bytes: int = MAX_HEADER_BYTES
) -> bytes:
    """The first bytes of a safetensors file of `size` bytes, up to where the tensors begin: at most
    `max_bytes`.

    Raises ArtifactError as `read_safetensors_header`, and OSError.
    """
    prefix = file.read(8)
    if len(prefix) < 8:
        raise ArtifactError(f"{where}: not a safetensors file: {size} bytes")
    (length,) = struct.unpack("<Q", prefix)
    if length > size - 8:
        raise ArtifactError(
            f"{where}: not a safetensors file: header of {length} bytes in a file of {size}"
        )
    if length > max_bytes:
        raise ArtifactError(f"{where}: header of {length} bytes, at most {max_bytes} are read")
    header = file.read(length)
    if len(header) < length:
        raise ArtifactError(f"{where}: truncated")
    return prefix + header


def parse_safetensors_header(header: bytes, size: int, where: str) -> list[TensorEntry]:
    """The tensors that the `header` of a file of `size` bytes tells of, in the order of their
    bytes. Raises ArtifactError as `read_safetensors_header`."""
    try:
        text = header[8:].decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{where}: not a safetensors file: header is not UTF-8") from error
    data = parse_json_object(text, where)
    entries = [
        _entry(where, name, value, len(header), size)
        for name, value in data.items()
        if name != "__metadata__"
    ]
    entries.sort(key=lambda entry: entry.begin)
    position = len(header)
    for entry in entries:
        if entry.begin != position:
            raise ArtifactError(
                f"{where}: tensor {shorten(entry.name, 200)}: bytes overlap or leave a gap"
            )
        position = entry.end
    if position != size:
        raise ArtifactError(f"{where}: tensors end at byte {position}, the file at {size}")
    return entries


def _entry(where: str, name: str, value: Any, offset: int, size: int) -> TensorEntry:
    try:
        dtype, shape, (begin, end) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
    except (TypeError, KeyError, ValueError) as error:
        raise _bad_entry(where, name, "malformed header entry") from error
    # By type: Python counts True as 1. No larger than the file, or their product has no end.
    numbers = (*shape, begin, end)
    is_whole = len(shape) <= _MAX_DIMS and set(map(type, numbers)) == {int}
    if not is_whole or min(numbers) < 0 or max(numbers) > size:
        raise _bad_entry(where, name, "malformed header entry")
    if not isinstance(dtype, str) or dtype not in _DTYPE_BYTES:
        raise _bad_entry(where, name, f"unknown dtype {shorten(dtype)}")
    num_bytes = _DTYPE_BYTES[dtype] * math.prod(shape)
    if end - begin != num_bytes:
        found = f"{end - begin} bytes, shape and dtype need {num_bytes}"
        raise _bad_entry(where, name, found)
    return TensorEntry(name, dtype, shape, offset + begin, offset + end)


def _bad_entry(where: str, name: str, problem: str) -> ArtifactError:
    return ArtifactError(f"{where}: tensor {shorten(name, 200)}: {problem}")
