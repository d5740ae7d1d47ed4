"""Several tasks as one: how often each is shown, and which of its examples an epoch shows."""

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence

import numpy as np

from trainer.config import MixtureConfig
from trainer.examples import Examples, Indices, TaskRange
from trainer.tokens import Encoded

TEMPERATURE = 2.0


def rates(
    sizes: Sequence[int], weights: Sequence[float], settings: MixtureConfig
) -> tuple[float, ...]:
    """Share of each task among the examples shown; they sum to 1.

    `sizes`: training examples of each. Raffel et al. (arXiv 1910.10683, section 3.5.2), where
    weights are all 1: proportional with an artificial limit K, equal, or temperature-scaled.
    """
    limit = settings.limit or max(sizes)
    counted = [float(min(size, limit)) for size in sizes]
    if settings.sampling == "equal":
        counted = [1.0] * len(sizes)
    elif settings.sampling == "temperature":
        counted = [count ** (1 / (settings.temperature or TEMPERATURE)) for count in counted]
    weighted = [count * weight for count, weight in zip(counted, weights, strict=True)]
    return tuple(value / sum(weighted) for value in weighted)


def apportion(shares: Sequence[float], total: int) -> tuple[int, ...]:
    """Whole numbers near `shares` times `total` that sum to it, by largest remainders."""
    exact = [share * total for share in shares]
    counts = [math.floor(value + 1e-9) for value in exact]
    order = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for index in order[: total - sum(counts)]:
        counts[index] += 1
    return tuple(counts)


class Mixture:
    """The examples of several tasks, one task after the other.

    An epoch shows a fixed number of each, `counts`. A task's examples are gone through in random
    order, lap after lap: after any number of epochs, none was shown two times more than another.
    """

    def __init__(
        self, parts: Sequence[tuple[str, Examples]], counts: Sequence[int] | None = None
    ) -> None:
        """`parts`: names and examples. `counts`: how many of each an epoch shows; None: all."""
        self._parts = [examples for _, examples in parts]
        sizes = [len(examples) for examples in self._parts]
        self.counts = tuple(counts or sizes)
        self._begins = [0, *np.cumsum(sizes).tolist()][:-1]
        self.tasks = tuple(
            TaskRange(name, begin, begin + size, count)
            for (name, _), begin, size, count in zip(
                parts, self._begins, sizes, self.counts, strict=True
            )
        )
        self.lengths: Indices = np.concatenate([examples.lengths for examples in self._parts])

    def __len__(self) -> int:
        """Number of examples of all tasks."""
        return len(self.lengths)

    def __getitem__(self, index: int) -> Encoded:
        """The example at `index`, counted through all tasks."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        # The last of those that begin there: a task may be empty.
        part = bisect_right(self._begins, index) - 1
        return self._parts[part][index - self._begins[part]]

    def __iter__(self) -> Iterator[Encoded]:
        """The examples in order."""
        return (example for examples in self._parts for example in examples)

    @property
    def num_per_epoch(self) -> int:
        """Examples that one epoch shows."""
        return sum(self.counts)

    def epoch(self, seed: int, epoch: int) -> Indices:
        """Which examples epoch number `epoch` shows: a function of its arguments alone."""
        shown = [
            begin + _laps(len(examples), count, epoch * count, (seed, number))
            for number, (examples, begin, count) in enumerate(
                zip(self._parts, self._begins, self.counts, strict=True)
            )
        ]
        return np.concatenate(shown)


def _laps(size: int, count: int, first: int, key: tuple[int, int]) -> Indices:
    """`count` indices below `size`, from place `first` on of laps of random order."""
    shown = []
    end = first + count
    while first < end:
        lap, place = divmod(first, size)
        taken = min(size - place, end - first)
        if taken == size:
            # All of them: in which order does not matter.
            shown.append(np.arange(size, dtype=np.int64))
        else:
            order = np.random.default_rng((*key, lap)).permutation(size)
            shown.append(order[place : place + taken])
        first += taken
    return np.concatenate(shown) if shown else np.zeros(0, np.int64)
