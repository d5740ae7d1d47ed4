"""Non-inferiority: whether a drop of more than a margin is excluded, and could have been seen."""

import math
from dataclasses import dataclass
from enum import StrEnum

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
    """Too few samples to exclude the drop with the stated power, even where there is none."""


@dataclass(frozen=True)
class NonInferiority:
    """One candidate against one baseline on one task and metric."""

    diff: float
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

    def verdict(self, p_adjusted: float, alpha: float, power: float) -> Verdict:
        """The verdict at a level, given this p-value after correction for all that is looked at."""
        if self.p_drop <= alpha:
            return Verdict.DROP
        if not self.power >= power:
            return Verdict.UNDERPOWERED
        return Verdict.PASS if p_adjusted <= alpha else Verdict.UNCLEAR


def non_inferiority(
    candidate: Scores, baseline: Scores, margin: float, level: float, config: TestConfig
) -> NonInferiority:
    """Tests that the candidate is worse by less than `margin` (in the metric's own scale).

    p-values invert the one-sided BCa interval. `level` is the one that power is stated at: the
    whole table's divided by the number of tests, the strictest of Holm's steps.
    """
    found = pairs(candidate, baseline)
    num_pairs = len(found.ours)
    if not num_pairs:
        nan = math.nan
        return NonInferiority(nan, margin, nan, nan, 0.0, 0, None)
    drawn = found.distribution(config.bootstrap)
    error = comparison_error(found)
    return NonInferiority(
        diff=drawn.value,
        margin=margin,
        p=drawn.p_below(-margin),
        p_drop=drawn.p_above(-margin),
        power=power_of(error, margin, level),
        num_pairs=num_pairs,
        num_needed=required_samples(error, num_pairs, margin, level, config.power),
    )
