"""Non-inferiority: whether a drop of more than a margin is excluded, and could have been seen."""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.stats import norm

from evalsuite.stats.comparison import TestConfig, comparison_error, pairs
from evalsuite.stats.power import power_of, required_samples
from evalsuite.types import Scores


class Verdict(StrEnum):
    """What a gate says of one number."""

    PASS = "pass"
    """A drop beyond the margin is excluded."""
    DROP = "drop"
    """The drop is beyond the margin: that it is not is excluded."""
    UNCLEAR = "unclear"
    """Neither is excluded."""
    UNDERPOWERED = "underpowered"
    """Neither is, and the samples are too few for the stated power, even where there is no drop."""
    UNSCORED = "unscored"
    """The candidate has no answer to samples that the baseline has answered."""


@dataclass(frozen=True)
class NonInferiority:
    """One candidate against one baseline on one task and metric; more is better throughout."""

    diff: float
    ci_low: float
    """Of the two-sided interval at twice the level: the lower end is that of the one-sided one."""
    ci_high: float
    margin: float
    p: float
    """One-sided, against a drop of at least the margin."""
    p_drop: float
    """One-sided, against a drop of at most the margin."""
    power: float
    """Of excluding the drop at the level, where there is none."""
    num_pairs: int
    num_needed: int | None
    """Samples for the stated power; None where it cannot be said."""
    num_lost: int
    """Samples that the baseline has answered and the candidate has not."""

    def verdict(self, p_adjusted: float, alpha: float, power: float) -> Verdict:
        """The verdict at a level, given this p-value after correction for all that is looked at."""
        if self.num_lost or not self.num_pairs:
            return Verdict.UNSCORED
        if self.p_drop <= alpha:
            return Verdict.DROP
        if p_adjusted <= alpha:
            return Verdict.PASS
        return Verdict.UNCLEAR if self.power >= power else Verdict.UNDERPOWERED


def non_inferiority(
    candidate: Scores, baseline: Scores, margin: float, level: float, config: TestConfig
) -> NonInferiority:
    """Tests that the candidate is worse by less than `margin` (in the metric's own scale).

    The p-value is the larger of two: the inverted one-sided BCa interval, and the normal one from
    the standard error, which is never 0: a few samples with equal answers prove nothing. `level`
    is the one that power is stated at: the whole table's divided by the number of tests, the
    strictest of Holm's steps.
    """
    found = pairs(candidate, baseline)
    num_pairs = len(found.ours)
    num_lost = int(np.sum(baseline.scored & ~candidate.scored))
    if not num_pairs:
        nan = math.nan
        return NonInferiority(nan, nan, nan, margin, nan, nan, 0.0, 0, None, num_lost)
    drawn = found.distribution(config.bootstrap)
    interval = drawn.interval(max(0.0, 1 - 2 * config.alpha))
    error = comparison_error(found)
    value, low, high = drawn.value, interval.low, interval.high
    if found.metric.higher_is_better:
        p, p_drop = drawn.p_below(-margin), drawn.p_above(-margin)
    else:
        p, p_drop = drawn.p_above(margin), drawn.p_below(margin)
        value, low, high = -value, -high, -low
    return NonInferiority(
        diff=value,
        ci_low=low,
        ci_high=high,
        margin=margin,
        p=max(p, float(norm.sf((value + margin) / error))),
        p_drop=max(p_drop, float(norm.cdf((value + margin) / error))),
        power=power_of(error, margin, level),
        num_pairs=num_pairs,
        num_needed=required_samples(error, num_pairs, margin, level, config.power),
        num_lost=num_lost,
    )
