"""A list whose items lie on disk, for what does not fit into memory."""

import os
import pickle
import tempfile
import weakref
from abc import abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TypeVar, overload

T = TypeVar("T")
# Bytes gathered before they are written, and read at a time when the list is gone through.
BUFFER_BYTES = 1 << 20


class Indexed(Sequence[T]):
    """A sequence of items that are made as they are asked for, one by one."""

    @abstractmethod
    def _at(self, index: int) -> T:
        """The item at `index`, from 0 below the length."""

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        """The item at `index`, counted from the end where it is negative; or several."""
        if isinstance(index, slice):
            return [self._at(i) for i in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(index)
        return self._at(place)


class DiskList(Indexed[T]):
    """Items as pickles in a file without a name: only this process reads it, and it is gone with
    it, however that ends. In memory it keeps 8 bytes for each."""

    def __init__(self, folder: Path, items: Iterable[T] = ()) -> None:
        """The file lies on the disk of `folder`, which must exist. Raises OSError."""
        self._file = tempfile.TemporaryFile(dir=folder, buffering=BUFFER_BYTES)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._ends = array("Q")
        for item in items:
            self.append(item)

    def append(self, item: T) -> None:
        """Adds an item. Raises OSError where the disk is full."""
        content = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
        self._file.write(content)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(content))

    def __len__(self) -> int:
        """Number of items."""
        return len(self._ends)

    def _at(self, index: int) -> T:
        """Read anew each time."""
        begin = self._ends[index - 1] if index else 0
        self._file.flush()
        content = os.pread(self._file.fileno(), self._ends[index] - begin, begin)
        item: T = pickle.loads(content)
        return item


class Picked(Indexed[T]):
    """Some items of a sequence, by their indices."""

    def __init__(self, items: Sequence[T], indices: Sequence[int]) -> None:
        self._items = items
        self._indices = indices

    def __len__(self) -> int:
        """Number of picked items."""
        return len(self._indices)

    def _at(self, index: int) -> T:
        return self._items[self._indices[index]]


class Chained(Indexed[T]):
    """Sequences one after another."""

    def __init__(self, parts: Iterable[Sequence[T]]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._ends = list(accumulate(map(len, self._parts)))

    def __len__(self) -> int:
        """Items of all parts."""
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[T]:
        """Part by part."""
        return (item for part in self._parts for item in part)

    def _at(self, index: int) -> T:
        part = bisect_right(self._ends, index)
        return self._parts[part][index - (self._ends[part - 1] if part else 0)]
