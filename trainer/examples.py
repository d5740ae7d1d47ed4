"""The examples that a job trains on or validates with, wherever their tokens are kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from trainer.tokens import Encoded

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TaskRange:
    """The examples of one task: those from `begin` up to, without, `end`."""

    name: str
    begin: int
    end: int
    num_per_epoch: int
    """How many of them, repeated ones counted again, an epoch shows."""


class Examples(Protocol):
    """A sequence of encoded examples; in memory, on disk, or a choice among others.

    Order, batches and packs are made from `lengths` alone; an example is built when it is asked
    for.
    """

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, index: int) -> Encoded:
        """The example at `index`, counted from 0."""

    def __iter__(self) -> Iterator[Encoded]:
        """The examples in order."""

    @property
    def lengths(self) -> Indices:
        """Tokens of each example [N], prompt and completion together."""

    @property
    def tasks(self) -> tuple[TaskRange, ...]:
        """The tasks in order; together they are all examples."""

    @property
    def num_per_epoch(self) -> int:
        """How many examples one epoch shows."""

    def epoch(self, seed: int, epoch: int) -> Indices:
        """Which examples epoch number `epoch` shows, in no order that matters.

        Each once, unless a mixture's rates leave some out or show some again. A function of its
        arguments alone.
        """


class InMemory:
    """A list of encoded examples, all of one task: the plain form of `Examples`."""

    def __init__(self, examples: Sequence[Encoded], task: str = "") -> None:
        """`task` is its name in logs."""
        self._examples = examples
        self._task = task
        self.lengths = np.array([example.num_tokens for example in examples], np.int64)

    def __len__(self) -> int:
        """Number of examples."""
        return len(self._examples)

    def __getitem__(self, index: int) -> Encoded:
        """The example at `index`."""
        return self._examples[index]

    def __iter__(self) -> Iterator[Encoded]:
        """The examples in order."""
        return iter(self._examples)

    @property
    def tasks(self) -> tuple[TaskRange, ...]:
        """One task."""
        return (TaskRange(self._task, 0, len(self), len(self)),)

    @property
    def num_per_epoch(self) -> int:
        """All of them."""
        return len(self)

    def epoch(self, seed: int, epoch: int) -> Indices:
        """All of them, in order."""
        return np.arange(len(self), dtype=np.int64)
