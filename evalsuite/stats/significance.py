"""Tests whether two rows differ on the same samples."""

import math
from collections.abc import Callable

import numpy as np
from scipy.stats import binomtest

from evalsuite.types import Floats

# Bounds the swaps [R, U] of one batch to 32 MB.
_BATCH_VALUES = 4_000_000


def mcnemar(num_better: int, num_worse: int) -> float:
    """Two-sided exact McNemar test (McNemar 1947): the p-value of the discordant pairs.

    `num_better` samples are right on the first side only, `num_worse` on the second only. 1 where
    no pair differs.
    """
    discordant = num_better + num_worse
    return float(binomtest(num_better, discordant, 0.5).pvalue) if discordant else 1.0


def permutation_p(
    aggregate: Callable[[Floats], Floats],
    ours: Floats,
    theirs: Floats,
    num_permutations: int,
    seed: int,
) -> float:
    """Two-sided paired permutation test of units [U, K]: sides are swapped unit by unit.

    For corpus metrics this is sacreBLEU's paired approximate randomisation (Riezler and Maxwell
    2005), with its draws and its p-value (c + 1) / (R + 1); for means it is the sign-flip test.
    Where all 2^U swaps are no more than asked for, each is made once, as
    `scipy.stats.permutation_test(permutation_type="samples")` does. Ties count, within rounding.
    NaN without units.
    """
    num_units = len(ours)
    if not num_units:
        return math.nan
    total = aggregate(ours.sum(axis=0)) - aggregate(theirs.sum(axis=0))
    # As scipy: what equals the observed difference but for rounding counts as extreme.
    least = abs(float(total)) * (1 - 1e-12) - 1e-14
    exact = num_units <= 30 and 2**num_units <= num_permutations
    num = 2**num_units if exact else num_permutations
    rng = np.random.default_rng(seed)
    size = max(1, _BATCH_VALUES // num_units)
    extreme = 0
    step = ours - theirs
    for start in range(0, num, size):
        rows = min(size, num - start)
        if exact:
            codes = np.arange(start, start + rows)[:, None]
            swapped = ((codes >> np.arange(num_units)) & 1).astype(np.float64)
        else:
            swapped = rng.integers(2, size=(rows, num_units), dtype=bool).astype(np.float64)
        moved = swapped @ step
        first, second = ours.sum(axis=0) - moved, theirs.sum(axis=0) + moved
        with np.errstate(all="ignore"):
            differences = np.abs(aggregate(first) - aggregate(second))
        extreme += int(np.sum(differences >= least))
    return extreme / num if exact else (extreme + 1) / (num + 1)


def paired_bootstrap_p(
    aggregate: Callable[[Floats], Floats],
    ours: Floats,
    theirs: Floats,
    num_resamples: int,
    seed: int,
) -> float:
    """sacreBLEU's paired bootstrap test (Koehn 2004; its formula, draws and p-value) of [N, K].

    Given beside `permutation_p` to check published p-values; it is the weaker test.
    """
    if not len(ours):
        return math.nan
    rng = np.random.default_rng(seed)
    indices = rng.choice(len(ours), size=(num_resamples, len(ours)), replace=True)
    differences = np.abs(
        np.concatenate(
            [
                np.atleast_1d(
                    aggregate(ours[rows].sum(axis=-2)) - aggregate(theirs[rows].sum(axis=-2))
                )
                for rows in np.array_split(indices, max(1, indices.size // _BATCH_VALUES))
            ]
        )
    )
    observed = abs(float(aggregate(ours.sum(axis=0)) - aggregate(theirs.sum(axis=0))))
    centred = differences - differences.mean()
    return (int(np.sum(centred > observed)) + 1) / (num_resamples + 1)
