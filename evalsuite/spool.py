"""Samples of a task of any size: the first thousands in memory, the rest in a temporary file."""

import pickle
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, overload

from evalsuite.errors import EvalError
from evalsuite.types import Sample

# About 10 MB of samples of ordinary length.
_IN_MEMORY = 10_000


class SampleSpool(Sequence[Sample]):
    """Samples, appended once and read at will; eight bytes of memory for each that is on disk.

    Raises EvalError where the temporary folder is full.
    """

    def __init__(self, in_memory: int = _IN_MEMORY, samples: Iterable[Sample] = ()) -> None:
        self._in_memory = in_memory
        self._head: list[Sample] = []
        self._offsets = array("Q")
        self._end = 0
        self._file: IO[bytes] | None = None
        for sample in samples:
            self.append(sample)

    def append(self, sample: Sample) -> None:
        """Adds a sample at the end."""
        if len(self._head) < self._in_memory:
            self._head.append(sample)
            return
        record = pickle.dumps(sample, pickle.HIGHEST_PROTOCOL)
        try:
            file = self._opened()
            file.seek(self._end)
            file.write(record)
            file.flush()
        except OSError as error:
            raise EvalError(
                f"{tempfile.gettempdir()}: no room for the task's samples: {error.strerror}; set "
                "TMPDIR to a folder with more"
            ) from error
        self._offsets.append(self._end)
        self._end += len(record)

    def __len__(self) -> int:
        return len(self._head) + len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        index = range(len(self))[index]
        if index < len(self._head):
            return self._head[index]
        file = self._opened()
        file.seek(self._offsets[index - len(self._head)])
        found: Sample = pickle.load(file)
        return found

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
            weakref.finalize(self, self._file.close)
        return self._file

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))
