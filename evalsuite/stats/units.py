"""Units of resampling: samples, or groups of samples that share a passage.

U units, N samples, K sufficient statistics.
"""

import numpy as np

from evalsuite.types import Bools, Floats, Ints, Metric, Scores


def unit_sums(statistics: Floats, groups: Ints | None) -> Floats:
    """Statistics summed per unit, [U, K] from [N, K]; the samples themselves without groups."""
    if groups is None:
        return statistics
    _, index = np.unique(groups, return_inverse=True)
    sums = np.zeros((int(index.max()) + 1, statistics.shape[1]))
    np.add.at(sums, index, statistics)
    return sums


def scored_units(scores: Scores, mask: Bools | None = None) -> Floats:
    """[U, K] over the scored samples, or over those of `mask`."""
    mask = scores.scored if mask is None else mask
    groups = None if scores.groups is None else scores.groups[mask]
    return unit_sums(scores.statistics[mask], groups)


def mean_values(metric: Metric, statistics: Floats) -> Floats | None:
    """[N] values whose plain mean is the metric; None for a metric that is no mean.

    A mean has the statistics [score, 1]. Its values are asked of the metric, which knows its scale.
    """
    if statistics.shape[1] != 2 or not len(statistics) or not np.all(statistics[:, 1] == 1.0):
        return None
    values = np.asarray(metric.aggregate(statistics), dtype=np.float64)
    whole = float(metric.aggregate(statistics.sum(axis=0)))
    return values if np.isclose(values.mean(), whole, rtol=1e-9, atol=1e-12) else None


def is_binary(values: Floats | None, maximum: float) -> bool:
    """Whether every value is right (the maximum) or wrong (0): a proportion."""
    if values is None or maximum <= 0:
        return False
    return bool(np.all((values == 0.0) | (values == maximum)))
