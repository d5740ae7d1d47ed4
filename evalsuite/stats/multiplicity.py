"""Corrections for many comparisons: p-values that mean the same however many were looked at."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from enum import StrEnum
from typing import TypeVar

import numpy as np
from scipy.stats import false_discovery_control

from evalsuite.types import Floats

K = TypeVar("K", bound=Hashable)


class Correction(StrEnum):
    """What is held at the level over a whole table."""

    HOLM = "holm"
    """The chance of any false finding: for gates."""
    BH = "bh"
    """The expected share of false findings among the findings: for exploring."""
    NONE = "none"
    """Nothing."""


def holm(p_values: Sequence[float]) -> Floats:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given. NaN stays NaN.

    A test that could not be made does not count towards the number of tests.
    """
    return _over_tests(p_values, _holm)


def benjamini_hochberg(p_values: Sequence[float]) -> Floats:
    """Adjusted p-values of Benjamini and Hochberg 1995, in the order given. NaN stays NaN."""
    return _over_tests(p_values, false_discovery_control)


def adjusted(p_values: Sequence[float], correction: Correction) -> Floats:
    """The p-values under a correction."""
    if correction is Correction.NONE:
        return np.asarray(p_values, dtype=np.float64)
    return holm(p_values) if correction is Correction.HOLM else benjamini_hochberg(p_values)


def adjusted_by_key(p_values: Mapping[K, float], correction: Correction) -> dict[K, float]:
    """As `adjusted`, by key."""
    found = adjusted(list(p_values.values()), correction)
    return {key: float(value) for key, value in zip(p_values, found, strict=True)}


def _holm(p_values: Floats) -> Floats:
    order = np.argsort(p_values, kind="stable")
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    found = np.empty_like(p_values)
    found[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return found


def _over_tests(p_values: Sequence[float], correct: Callable[[Floats], Floats]) -> Floats:
    found = np.asarray(p_values, dtype=np.float64).copy()
    made = ~np.isnan(found)
    if made.any():
        found[made] = correct(found[made])
    return found
