"""The outcomes of one row on one task: read from the log as they are looked at."""

from array import array
from collections.abc import Callable, Sequence
from typing import TypeVar, overload

from evalsuite.record import AnswerLog
from evalsuite.types import Outcome

T = TypeVar("T")


class Made(Sequence[T]):
    """Values that are made as they are looked at."""

    def __init__(self, num: int, make: Callable[[int], T]) -> None:
        self._num = num
        self._make = make

    def __len__(self) -> int:
        return self._num

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self._make(i) for i in range(*index.indices(self._num))]
        return self._make(range(self._num)[index])


class LoggedOutcomes(Made[Outcome]):
    """One outcome per sample, in the task's order; ten bytes of memory each."""

    def __init__(self, log: AnswerLog, num_samples: int) -> None:
        super().__init__(num_samples, self._read)
        self._log = log
        self._offsets = array("q", [-1]) * num_samples
        self._shots = array("H", [0]) * num_samples

    def put(self, index: int, offset: int, num_shots: int) -> None:
        """Sample `index` is answered or refused by the line at `offset`."""
        self._offsets[index] = offset
        self._shots[index] = num_shots

    def _read(self, index: int) -> Outcome:
        line = self._log.read(self._offsets[index])
        return Outcome(line.answer, line.request, self._shots[index], line.refusal)
