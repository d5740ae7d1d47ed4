"""Reads a safetensors file once: into one piece of memory that every tensor is a view of."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

import torch

from server.adapters.peft_format import TENSORS, check_finite, is_finite
from server.errors import AdapterRefusedError
from understudy.artifact import (
    ArtifactError,
    TensorEntry,
    open_file,
    parse_safetensors_header,
    take_safetensors_header,
)

_BLOCK_BYTES = 1 << 20
_NUMBERS_AT_ONCE = 1 << 20
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class TensorFile:
    """A safetensors file in memory."""

    header: bytes
    entries: list[TensorEntry]
    """By their bytes."""
    data: torch.Tensor
    """The bytes behind the header [n]."""
    breathe: Callable[[], None]
    """Called after each piece of work on the bytes."""

    @property
    def sha256(self) -> str:
        """Of the file, in hex."""
        digest = hashlib.sha256(self.header)
        for block in self._blocks(0, len(self.data)):
            digest.update(block)
        return digest.hexdigest()

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by name: views of `data`, but for those that do not lie on a multiple of
        their element's size."""
        found: dict[str, torch.Tensor] = {}
        for entries, values in self._runs:
            sizes = [(entry.end - entry.begin) // values.itemsize for entry in entries]
            for entry, flat in zip(entries, values.split(sizes), strict=True):
                found[entry.name] = flat.view(entry.shape)
        return found

    def check_finite(self) -> None:
        """Raises AdapterRefusedError that names a tensor which holds NaN or infinity, of floating
        types of at least 16 bits: others are no adapter's."""
        for entries, values in self._runs:
            if not values.is_floating_point() or values.itemsize < 2:
                continue
            for piece in values.split(_NUMBERS_AT_ONCE):
                if len(piece) and not is_finite(piece):
                    self._refuse(entries)
                self.breathe()

    def _refuse(self, entries: Sequence[TensorEntry]) -> NoReturn:
        for entry in entries:
            if entry.begin < entry.end:
                check_finite(entry.name, self.tensors[entry.name])
            self.breathe()
        raise AdapterRefusedError(f"{TENSORS}: holds NaN or infinity")

    @cached_property
    def _runs(self) -> list[tuple[list[TensorEntry], torch.Tensor]]:
        """Neighbours of one type, and their numbers in a row [n].

        They are cut apart, and checked, at once: each operation of its own costs what reading a
        small tensor does, and lets other threads have the interpreter's lock.
        """
        found = []
        for dtype, run in groupby(self.entries, lambda entry: _DTYPES[entry.dtype]):
            entries = list(run)
            begin, end = (at - len(self.header) for at in (entries[0].begin, entries[-1].end))
            piece = self.data[begin:end]
            if begin % dtype.itemsize:
                piece = piece.clone()
            found.append((entries, piece.view(dtype)))
        return found

    def by_name(self) -> Iterator[tuple[TensorEntry, Iterator[memoryview]]]:
        """The tensors sorted by name, each with its bytes."""
        start = len(self.header)
        for entry in sorted(self.entries, key=lambda entry: entry.name):
            yield entry, self._blocks(entry.begin - start, entry.end - start)

    def _blocks(self, begin: int, end: int) -> Iterator[memoryview]:
        for first in range(begin, end, _BLOCK_BYTES):
            yield self._bytes[first : min(end, first + _BLOCK_BYTES)]
            self.breathe()

    @cached_property
    def _bytes(self) -> memoryview:
        return _memory(self.data)


def read_tensor_file(
    path: Path,
    *,
    max_bytes: int,
    max_header_bytes: int,
    check_size: Callable[[int], None],
    pin_memory: bool,
    breathe: Callable[[], None],
) -> TensorFile:
    """Reads `path`, whose header may have `max_header_bytes`. `check_size` is told the bytes of all
    tensors before they are read, and may raise. `pin_memory`: for fast copies to a CUDA device.
    `breathe` is called every so often.

    Raises AdapterRefusedError for a larger file than `max_bytes`, ArtifactError for one that is not
    safetensors, and OSError.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise AdapterRefusedError(
                f"{path.name}: {size} bytes, this server takes at most {max_bytes}"
            )
        header = take_safetensors_header(file, size, path.name, max_header_bytes)
        breathe()
        entries = parse_safetensors_header(header, size, path.name)
        breathe()
        check_size(size - len(header))
        data = torch.empty(size - len(header), dtype=torch.uint8, pin_memory=pin_memory)
        left = _memory(data)
        while left:
            count = file.readinto(left[:_BLOCK_BYTES])
            if not count:
                raise ArtifactError(f"{path.name}: truncated")
            left = left[count:]
            breathe()
    return TensorFile(header, entries, data, breathe)


def _memory(data: torch.Tensor) -> memoryview:
    array: Any = data.numpy()
    return memoryview(array)
