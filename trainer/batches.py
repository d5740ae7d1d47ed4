"""Which examples each step sees: a function of the seed and the step alone."""

import math
from bisect import bisect_right

import numpy as np

from trainer.config import OptimiserConfig
from trainer.examples import Examples, Indices

# Batches are cut from windows of this many batches sorted by length: little padding, and still
# other neighbours in every epoch.
WINDOW_BATCHES = 16


class BatchPlan:
    """The batches of each step of a run, found for any step without those before it."""

    def __init__(self, examples: Examples, settings: OptimiserConfig, seed: int) -> None:
        """Reads of `examples` their lengths and which of them an epoch shows."""
        self._examples = examples
        self._settings = settings
        self._seed = seed
        self._epoch = -1
        self._batches: list[Indices] = []
        # The step at which each epoch begins, as far as they are known.
        self._begins = [0]
        self.steps_per_epoch = self._steps_in(0)
        """Steps of the first epoch. With a budget of tokens others may take some more or less."""
        self.num_steps = self._count()

    def batches_of(self, step: int) -> list[Indices]:
        """The examples of each batch of step `step`, counted from 0, as indices."""
        while self._begins[-1] <= step:
            self._begins.append(self._begins[-1] + self._steps_in(len(self._begins) - 1))
        epoch = bisect_right(self._begins, step) - 1
        first = (step - self._begins[epoch]) * self._settings.accumulation
        return self._batches_in(epoch)[first : first + self._settings.accumulation]

    def _count(self) -> int:
        epochs, most = self._settings.epochs, self._settings.max_steps
        if self._settings.max_tokens_per_batch is None:
            total = math.ceil(epochs * self.steps_per_epoch)
        else:
            total = 0
            for epoch in range(math.ceil(epochs)):
                total += math.ceil(min(1.0, epochs - epoch) * self._steps_in(epoch))
                if most is not None and total >= most:
                    break
        return max(1, min(total, most or total))

    def _steps_in(self, epoch: int) -> int:
        settings = self._settings
        if settings.max_tokens_per_batch is None:
            num_batches = math.ceil(self._examples.num_per_epoch / settings.batch_size)
        else:
            num_batches = len(self._batches_in(epoch))
        return math.ceil(num_batches / settings.accumulation)

    def _batches_in(self, epoch: int) -> list[Indices]:
        if epoch != self._epoch:
            shown = self._examples.epoch(self._seed, epoch)
            lengths = self._examples.lengths
            self._epoch = epoch
            self._batches = epoch_batches(shown, lengths, self._settings, self._seed, epoch)
        return self._batches


def epoch_batches(
    shown: Indices, lengths: Indices, settings: OptimiserConfig, seed: int, epoch: int
) -> list[Indices]:
    """The examples of each batch of one epoch, as indices; each of `shown` comes once.

    `lengths` [N] are those of all examples, shown or not. A function of its arguments alone, so a
    run can continue anywhere. Examples of like length share a batch.
    """
    rng = np.random.default_rng((seed, epoch))
    order = shown[rng.permutation(len(shown))]
    if settings.max_tokens_per_batch is None:
        windows = np.arange(len(order)) // (settings.batch_size * WINDOW_BATCHES)
    else:
        windows = lengths[order].cumsum() // (settings.max_tokens_per_batch * WINDOW_BATCHES)
    batches: list[Indices] = []
    for drawn in np.split(order, np.flatnonzero(np.diff(windows)) + 1):
        batches += cut(drawn, lengths, settings)
    return [batches[i] for i in rng.permutation(len(batches))]


def cut(drawn: Indices, lengths: Indices, settings: OptimiserConfig) -> list[Indices]:
    """Batches of examples of like length, the shortest first.

    Each has `batch_size` examples; or, with `max_tokens_per_batch`, as many as stay within it when
    padded to the longest, and at least one.
    """
    by_length = drawn[np.argsort(lengths[drawn], kind="stable")]
    budget = settings.max_tokens_per_batch
    if budget is None:
        begins = list(range(0, len(by_length), settings.batch_size))
    else:
        begins = []
        for position, length in enumerate(lengths[by_length].tolist()):
            if not begins or (position - begins[-1] + 1) * length > budget:
                begins.append(position)
    return np.split(by_length, begins[1:]) if begins else []
