"""The outcomes of one row on one task: read from the log as they are looked at."""

from array import array
from collections.abc import Sequence
from typing import overload

from evalsuite.record import AnswerLog
from evalsuite.types import Answer, Outcome, Sample


class LoggedOutcomes(Sequence[Outcome]):
    """One outcome per sample, in the task's order; ten bytes of memory each."""

    def __init__(self, log: AnswerLog, num_samples: int) -> None:
        self._log = log
        self._offsets = array("q", [-1]) * num_samples
        self._shots = array("H", [0]) * num_samples

    def put(self, index: int, offset: int, num_shots: int) -> None:
        """Sample `index` is answered or refused by the line at `offset`."""
        self._offsets[index] = offset
        self._shots[index] = num_shots

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> Outcome: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Outcome]: ...

    def __getitem__(self, index: int | slice) -> Outcome | Sequence[Outcome]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        line = self._log.read(self._offsets[index])
        return Outcome(line.answer, line.request, self._shots[index], line.refusal)


class Copies(Sequence[Answer]):
    """Answers that repeat the samples' inputs, made as they are looked at."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> Answer: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Answer]: ...

    def __getitem__(self, index: int | slice) -> Answer | Sequence[Answer]:
        if isinstance(index, slice):
            return [Answer(text=sample.input) for sample in self._samples[index]]
        return Answer(text=self._samples[index].input)


class Unlogged(Sequence[Outcome]):
    """Outcomes of answers that nobody was asked for."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._answers = answers

    def __len__(self) -> int:
        return len(self._answers)

    @overload
    def __getitem__(self, index: int) -> Outcome: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Outcome]: ...

    def __getitem__(self, index: int | slice) -> Outcome | Sequence[Outcome]:
        if isinstance(index, slice):
            return [Outcome(answer) for answer in self._answers[index]]
        return Outcome(self._answers[index])
