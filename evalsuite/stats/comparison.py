"""Two rows on the same samples: the difference, its interval, a p-value, what could be seen."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from evalsuite.stats.bootstrap import (
    NO_INTERVAL,
    BootstrapConfig,
    Distribution,
    Interval,
    distribution,
)
from evalsuite.stats.power import (
    binary_difference_error,
    difference_error,
    minimum_detectable_effect,
)
from evalsuite.stats.significance import mcnemar, permutation_p
from evalsuite.stats.standard_error import clustered_error, jackknife_error
from evalsuite.stats.units import is_binary, mean_values, unit_sums
from evalsuite.types import Floats, Ints, Metric, Scores


@dataclass(frozen=True)
class TestConfig:
    """How rows are compared."""

    # Not a test class, whatever its name says to pytest.
    __test__ = False

    bootstrap: BootstrapConfig = field(default_factory=BootstrapConfig)
    num_permutations: int = 10_000
    """sacrebleu's number; the smallest p-value is 1 / 10,001."""
    alpha: float = 0.05
    """Level of the tests and of the minimum detectable effect."""
    power: float = 0.8
    """Of the minimum detectable effect."""


@dataclass(frozen=True)
class Comparison:
    """Candidate minus baseline, over the samples that both have scored."""

    diff: float
    ci_low: float
    ci_high: float
    method: str
    """Of the interval, as in Interval."""
    num_pairs: int
    num_groups: int
    """Groups of samples that share a passage; `num_pairs` where all are independent."""
    error: float
    """Standard error of the difference."""
    p: float
    """Two-sided, uncorrected; NaN without pairs."""
    test: str
    """`mcnemar`, `permutation` or `none`."""
    mde: float
    """The smallest true difference that would be found with the stated power."""


@dataclass(frozen=True)
class Pairs:
    """The samples that two rows have both scored."""

    metric: Metric
    ours: Floats
    """[N, K]"""
    theirs: Floats
    groups: Ints | None

    def units(self) -> tuple[Floats, Floats]:
        """Both sides' statistics summed per unit, [U, K] each."""
        return unit_sums(self.ours, self.groups), unit_sums(self.theirs, self.groups)

    def values(self) -> tuple[Floats, Floats] | None:
        """Both sides' values per sample, [N] each; None for a metric that is no mean."""
        ours, theirs = mean_values(self.metric, self.ours), mean_values(self.metric, self.theirs)
        return None if ours is None or theirs is None else (ours, theirs)

    def binary_counts(self) -> tuple[int, int] | None:
        """Samples right on our side only, and on theirs only; None unless all are 0 or right."""
        found, maximum = self.values(), self.metric.maximum
        if found is None or not all(is_binary(side, maximum) for side in found):
            return None
        return int(np.sum(found[0] > found[1])), int(np.sum(found[0] < found[1]))

    def difference(self) -> Callable[[Floats], Floats]:
        """The difference of sums [..., 2K], both sides' side by side."""
        width = self.ours.shape[1]

        def of(sums: Floats) -> Floats:
            aggregate = self.metric.aggregate
            return np.asarray(aggregate(sums[..., :width]) - aggregate(sums[..., width:]))

        return of

    def distribution(self, config: BootstrapConfig) -> Distribution:
        """The bootstrap distribution of the difference."""
        return distribution(self.difference(), np.concatenate(self.units(), axis=1), config)


def pairs(candidate: Scores, baseline: Scores) -> Pairs:
    """The common samples of two rows.

    Raises ValueError if the two were not scored by the same metric on the same samples.
    """
    if candidate.metric.signature != baseline.metric.signature:
        raise ValueError("a comparison needs the same metric on both sides")
    if candidate.scored.shape != baseline.scored.shape:
        raise ValueError("a comparison needs the same samples on both sides")
    both = candidate.scored & baseline.scored
    groups = None if candidate.groups is None else candidate.groups[both]
    if not both.any():
        # A row without any answer has statistics of no meaningful width.
        empty = np.zeros((0, candidate.statistics.shape[1]))
        return Pairs(candidate.metric, empty, empty, None)
    return Pairs(candidate.metric, candidate.statistics[both], baseline.statistics[both], groups)


def compare(candidate: Scores, baseline: Scores, config: TestConfig) -> Comparison:
    """The paired comparison of two rows on one task and metric; raises as `pairs`."""
    found = pairs(candidate, baseline)
    num_pairs = len(found.ours)
    if not num_pairs:
        nan = math.nan
        return Comparison(nan, nan, nan, "none", 0, 0, nan, nan, "none", nan)
    num_groups = num_pairs if found.groups is None else len(np.unique(found.groups))
    drawn = found.distribution(config.bootstrap)
    interval = NO_INTERVAL
    if num_groups >= 2:
        interval = drawn.interval(config.bootstrap.confidence)
    error = comparison_error(found)
    p, test = _test(found, config)
    return _comparison(drawn.value, interval, num_pairs, num_groups, error, p, test, config)


def _comparison(
    diff: float,
    interval: Interval,
    num_pairs: int,
    num_groups: int,
    error: float,
    p: float,
    test: str,
    config: TestConfig,
) -> Comparison:
    mde = minimum_detectable_effect(error, config.alpha, config.power)
    return Comparison(
        diff=diff,
        ci_low=interval.low,
        ci_high=interval.high,
        method=interval.method,
        num_pairs=num_pairs,
        num_groups=num_groups,
        error=error,
        p=p,
        test=test,
        mde=mde,
    )


def comparison_error(found: Pairs) -> float:
    """Standard error of the difference: clustered where samples share a passage.

    Right-or-wrong samples get Agresti and Min's, metrics that are no means the jackknife.
    """
    counts = found.binary_counts()
    if counts is not None and found.groups is None:
        return binary_difference_error(*counts, len(found.ours)) * found.metric.maximum
    values = found.values()
    if values is None:
        units = np.concatenate(found.units(), axis=1)
        with np.errstate(all="ignore"):
            left_out = found.difference()(units.sum(axis=0) - units)
        return jackknife_error(left_out)
    differences = values[0] - values[1]
    if found.groups is None:
        return difference_error(differences, found.metric.maximum)
    clustered = clustered_error(differences, found.groups)
    num_groups = len(np.unique(found.groups))
    least = binary_difference_error(0, 0, num_groups) * found.metric.maximum
    return clustered if not clustered <= 1e-9 * found.metric.maximum else least


def _test(found: Pairs, config: TestConfig) -> tuple[float, str]:
    counts = found.binary_counts()
    if counts is not None and found.groups is None:
        return mcnemar(*counts), "mcnemar"
    ours, theirs = found.units()
    aggregate = found.metric.aggregate
    seed = config.bootstrap.seed
    return permutation_p(aggregate, ours, theirs, config.num_permutations, seed), "permutation"
