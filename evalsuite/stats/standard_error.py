"""Standard errors: of means, of means over clusters, of any metric; Wilson's interval."""

import math

import numpy as np
from scipy.stats import norm

from evalsuite.stats.units import mean_values, scored_units
from evalsuite.types import Floats, Ints, Metric, Scores


def mean_error(values: Floats) -> float:
    """Sample standard deviation / sqrt(N), from [N] values; NaN below two."""
    if len(values) < 2:
        return math.nan
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def clustered_error(values: Floats, groups: Ints) -> float:
    """Standard error of a mean whose samples come in groups.

    sqrt(sum over groups of (sum of the group's residuals)^2) / N: Miller 2024, "Adding Error Bars
    to Evals" (arXiv 2411.00640), equation 4, with the factor G / (G - 1) for G groups that makes
    it equal to `mean_error` when every sample is its own group. NaN below two groups.
    """
    _, index = np.unique(groups, return_inverse=True)
    num_groups = int(index.max()) + 1 if len(index) else 0
    if num_groups < 2:
        return math.nan
    residuals = np.bincount(index, weights=values - values.mean(), minlength=num_groups)
    factor = num_groups / (num_groups - 1)
    return float(math.sqrt(factor * float(residuals @ residuals)) / len(values))


def jackknife(metric: Metric, units: Floats) -> Floats:
    """The metric without each unit in turn, [U]. NaN entries where too little is left."""
    with np.errstate(all="ignore"):
        return np.asarray(metric.aggregate(units.sum(axis=0) - units), dtype=np.float64)


def jackknife_error(left_out: Floats) -> float:
    """Standard error from delete-one values [U] (Efron and Tibshirani 1993, section 11.2)."""
    num_units = len(left_out)
    if num_units < 2 or not np.all(np.isfinite(left_out)):
        return math.nan
    spread = left_out - left_out.mean()
    return float(math.sqrt((num_units - 1) / num_units * float(spread @ spread)))


def standard_error(scores: Scores) -> float:
    """Standard error of one row's value: of a mean, clustered where samples share a passage.

    A metric that is no mean gets the delete-one jackknife, over groups where there are any. NaN
    with fewer than two units.
    """
    statistics = scores.statistics[scores.scored]
    values = mean_values(scores.metric, statistics)
    if values is None:
        return jackknife_error(jackknife(scores.metric, scored_units(scores)))
    if scores.groups is None:
        return mean_error(values)
    return clustered_error(values, scores.groups[scores.scored])


def wilson(num_right: float, num: int, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), NaN without samples.

    Holds its level at few samples, where the normal approximation does not: Bowyer 2025
    (arXiv 2503.01747).
    """
    if not num:
        return math.nan, math.nan
    z = float(norm.ppf(0.5 + confidence / 2))
    share = num_right / num
    centre = share + z * z / (2 * num)
    half = z * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    scale = 1 + z * z / num
    # Rounding must not push the bounds of none and of all outside the possible.
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
