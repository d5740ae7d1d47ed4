"""Which examples each step sees: a function of the seed and the step alone."""

import math

import numpy as np

from trainer.examples import Indices

# Batches are cut from windows of this many batches sorted by length: little padding, and still
# other neighbours in every epoch.
WINDOW_BATCHES = 16


def epoch_batches(
    shown: Indices, lengths: Indices, batch_size: int, seed: int, epoch: int
) -> list[Indices]:
    """The examples of each batch of one epoch, as indices; each of `shown` comes once.

    `lengths` [N] are those of all examples, shown or not. A function of its arguments alone, so a
    run can continue anywhere. Examples of like length share a batch.
    """
    rng = np.random.default_rng((seed, epoch))
    order = shown[rng.permutation(len(shown))]
    window = batch_size * WINDOW_BATCHES
    batches = []
    for begin in range(0, len(order), window):
        drawn = order[begin : begin + window]
        by_length = drawn[np.argsort(lengths[drawn], kind="stable")]
        batches += [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def num_steps(num_examples: int, batch_size: int, accumulation: int, epochs: float) -> int:
    """Optimiser steps of a run over `epochs` passes."""
    return max(1, math.ceil(epochs * steps_per_epoch(num_examples, batch_size, accumulation)))


def steps_per_epoch(num_examples: int, batch_size: int, accumulation: int) -> int:
    """Optimiser steps that show each example once."""
    return math.ceil(math.ceil(num_examples / batch_size) / accumulation)
