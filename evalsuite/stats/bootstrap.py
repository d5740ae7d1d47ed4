"""Confidence intervals by the paired bootstrap.

One resample draws units (samples, or groups of samples) with replacement and recomputes the metric,
for a difference on the same units of both sides (Koehn 2004, "Statistical Significance Tests for
Machine Translation Evaluation"; Efron and Tibshirani 1993, chapters 13 and 14). Intervals are BCa
(bias-corrected and accelerated) and equal `scipy.stats.bootstrap`'s; computed here from sums, since
scipy's jackknife holds N x N values. Where BCa is undefined the percentile interval is given and
named. A proportion of independent samples gets Wilson's interval.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import norm

from evalsuite.stats.standard_error import jackknife_error, wilson
from evalsuite.stats.units import is_binary, mean_values, scored_units
from evalsuite.types import Floats, Scores

# Bounds the counts [R, U] of one batch of resamples to 32 MB.
_BATCH_VALUES = 4_000_000
# From here on resampling costs minutes and the normal interval is as good.
_MANY_UNITS = 20_000


@dataclass(frozen=True)
class BootstrapConfig:
    """How intervals are drawn."""

    confidence: float = 0.95
    num_resamples: int = 2000
    """sacrebleu uses 1000; the tails of BCa want a little more."""
    seed: int = 0


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval. NaN bounds with method `none`: fewer than two units."""

    low: float
    high: float
    method: str
    """`bca`, `percentile`, `wilson`, `normal` (over 20,000 units) or `none`."""


NO_INTERVAL = Interval(math.nan, math.nan, "none")


@dataclass(frozen=True)
class Distribution:
    """What the bootstrap says about a value."""

    value: float
    resampled: Floats
    """[R] values on resamples; empty where the normal approximation stands in."""
    left_out: Floats
    """[U] values without each unit."""

    @property
    def error(self) -> float:
        """Standard error, by the jackknife."""
        return jackknife_error(self.left_out)

    @property
    def _constant(self) -> bool:
        return bool(np.all(np.abs(self.resampled - self.value) <= self._rounding))

    @property
    def _rounding(self) -> float:
        return 1e-12 * max(1.0, abs(self.value))

    def _bca(self) -> tuple[float, float]:
        """Bias correction z0 and acceleration a (Efron and Tibshirani 1993, section 14.3)."""
        below = (self.resampled < self.value).sum() + (self.resampled <= self.value).sum()
        bias = float(norm.ppf(below / (2 * len(self.resampled))))
        pull = self.left_out.mean() - self.left_out
        with np.errstate(all="ignore"):
            return bias, float((pull**3).sum() / (6 * (pull**2).sum() ** 1.5))

    def interval(self, confidence: float) -> Interval:
        """The two-sided interval."""
        tail = (1 - confidence) / 2
        if len(self.left_out) < 2:
            return NO_INTERVAL
        if not len(self.resampled):
            half = -float(norm.ppf(tail)) * self.error
            return Interval(self.value - half, self.value + half, "normal")
        if self._constant:
            return Interval(self.value, self.value, "percentile")
        bias, acceleration = self._bca()

        def level(z: float) -> float:
            shifted = bias + z
            return float(norm.cdf(bias + shifted / (1 - acceleration * shifted)))

        levels = [level(float(norm.ppf(tail))), level(float(norm.ppf(1 - tail)))]
        method = "bca"
        if not np.all(np.isfinite(levels)):
            method, levels = "percentile", [tail, 1 - tail]
        low, high = np.percentile(self.resampled, np.multiply(levels, 100))
        return Interval(float(low), float(high), method)

    def p_below(self, bound: float) -> float:
        """One-sided p-value against the true value being `bound` or less.

        The level at which the lower end of the one-sided BCa interval reaches `bound`; never below
        1 / (R + 1), since R resamples show no less. NaN with fewer than two units.
        """
        if self._decided:
            return self._floor if self.value > bound + self._rounding else 1.0
        return max(self._level_at(bound), self._floor)

    def p_above(self, bound: float) -> float:
        """As `p_below`, against the true value being `bound` or more."""
        if self._decided:
            return self._floor if self.value < bound - self._rounding else 1.0
        return max(1 - self._level_at(bound), self._floor)

    @property
    def _floor(self) -> float:
        return 1 / (len(self.resampled) + 1) if len(self.resampled) else 0.0

    @property
    def _decided(self) -> bool:
        return len(self.left_out) >= 2 and bool(len(self.resampled)) and self._constant

    def _level_at(self, bound: float) -> float:
        """The level of the interval whose lower end is `bound`."""
        if len(self.left_out) < 2:
            return math.nan
        if not len(self.resampled):
            return float(norm.sf((self.value - bound) / self.error))
        share = ((self.resampled < bound).sum() + (self.resampled <= bound).sum()) / 2
        share = min(max(share / len(self.resampled), self._floor), 1 - self._floor)
        bias, acceleration = self._bca()
        if not math.isfinite(bias) or not math.isfinite(acceleration):
            return float(share)
        distance = float(norm.ppf(share)) - bias
        return float(norm.cdf(distance / (1 + acceleration * distance) - bias))


def value_interval(scores: Scores, config: BootstrapConfig) -> Interval:
    """The interval of one row's value."""
    statistics = scores.statistics[scores.scored]
    values = mean_values(scores.metric, statistics)
    maximum = scores.metric.maximum
    if values is not None and is_binary(values, maximum) and scores.groups is None:
        low, high = wilson(values.sum() / maximum, len(values), config.confidence)
        return Interval(low * maximum, high * maximum, "wilson")
    units = scored_units(scores)
    if len(units) < 2:
        return NO_INTERVAL
    return distribution(lambda sums: scores.metric.aggregate(sums), units, config).interval(
        config.confidence
    )


def distribution(
    statistic: Callable[[Floats], Floats], units: Floats, config: BootstrapConfig
) -> Distribution:
    """The bootstrap distribution of `statistic` of summed statistics, from units [U, K].

    A paired difference hands both sides' statistics side by side.
    """
    total = units.sum(axis=0)
    with np.errstate(all="ignore"):
        left_out = np.asarray(statistic(total - units), dtype=np.float64)
        drawn = (
            [np.asarray(statistic(counts @ units)) for counts in _counts(len(units), config)]
            if 2 <= len(units) <= _MANY_UNITS
            else []
        )
    value = float(statistic(total))
    return Distribution(value, np.concatenate(drawn) if drawn else np.empty(0), left_out)


def _counts(num_units: int, config: BootstrapConfig) -> Iterator[Floats]:
    """How often each resample draws each unit, [R, U] in batches."""
    size = max(1, _BATCH_VALUES // num_units)
    if size >= config.num_resamples:
        yield _all_counts(num_units, config.num_resamples, config.seed)
        return
    rng = np.random.default_rng(config.seed)
    for start in range(0, config.num_resamples, size):
        yield _draw(rng, min(size, config.num_resamples - start), num_units)


@lru_cache(maxsize=4)
def _all_counts(num_units: int, num_resamples: int, seed: int) -> Floats:
    # Every cell of a table over the same samples draws the same resamples.
    return _draw(np.random.default_rng(seed), num_resamples, num_units)


def _draw(rng: np.random.Generator, num: int, num_units: int) -> Floats:
    indices = rng.integers(0, num_units, (num, num_units))
    flat = (indices + np.arange(num)[:, None] * num_units).ravel()
    return np.bincount(flat, minlength=num * num_units).reshape(num, num_units).astype(np.float64)
