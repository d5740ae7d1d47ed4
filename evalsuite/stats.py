"""Confidence intervals by the paired bootstrap over samples.

One resample draws sample indices with replacement and recomputes the metric, for a difference on
the same indices of both sides (Koehn 2004, "Statistical Significance Tests for Machine Translation
Evaluation"; Efron and Tibshirani 1993, chapters 13 and 14). Corpus metrics are recomputed from
summed statistics, never averaged. Intervals are BCa (bias-corrected and accelerated); where BCa is
undefined, as for a constant difference, the percentile interval is given and named.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import DegenerateDataWarning, bootstrap

from evalsuite.types import Floats, Scores

# Bounds the gathered statistics [R, N, K] of one batch of resamples to 32 MB.
_BATCH_VALUES = 4_000_000


@dataclass(frozen=True)
class BootstrapConfig:
    """How intervals are drawn."""

    confidence: float = 0.95
    num_resamples: int = 2000
    """sacrebleu uses 1000; the tails of BCa want a little more."""
    seed: int = 0


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval. NaN bounds with method `none`: fewer than two samples."""

    low: float
    high: float
    method: str
    """`bca`, `percentile` or `none`."""


@dataclass(frozen=True)
class Gain:
    """Candidate minus baseline, over the samples that both have scored."""

    diff: float
    ci_low: float
    ci_high: float
    method: str
    num_pairs: int


def value_interval(scores: Scores, config: BootstrapConfig) -> Interval:
    """The interval of one row's value."""
    statistics = scores.statistics[scores.scored]
    return _interval(len(statistics), statistics.shape[1], _resampled(scores, statistics), config)


def gain(candidate: Scores, baseline: Scores, config: BootstrapConfig) -> Gain:
    """The paired difference of two rows on one task and metric.

    Raises ValueError if the two were not scored by the same metric on the same samples.
    """
    if candidate.metric.signature != baseline.metric.signature:
        raise ValueError("a gain needs the same metric on both sides")
    if candidate.scored.shape != baseline.scored.shape:
        raise ValueError("a gain needs the same samples on both sides")
    both = candidate.scored & baseline.scored
    num_pairs = int(both.sum())
    if not num_pairs:
        return Gain(float("nan"), float("nan"), float("nan"), "none", 0)
    ours = _resampled(candidate, candidate.statistics[both])
    theirs = _resampled(baseline, baseline.statistics[both])

    def difference(indices: NDArray[np.int64]) -> Floats:
        return ours(indices) - theirs(indices)

    num_statistics = candidate.statistics.shape[1]
    interval = _interval(num_pairs, num_statistics, difference, config)
    diff = float(difference(np.arange(num_pairs)))
    return Gain(diff, interval.low, interval.high, interval.method, num_pairs)


def _resampled(scores: Scores, statistics: Floats) -> Callable[[NDArray[np.int64]], Floats]:
    """The metric [...] on resampled indices [..., N]."""
    return lambda indices: scores.metric.aggregate(statistics[indices].sum(axis=-2))


def _interval(
    num_samples: int,
    num_statistics: int,
    statistic: Callable[[NDArray[np.int64]], Floats],
    config: BootstrapConfig,
) -> Interval:
    if num_samples < 2:
        return Interval(float("nan"), float("nan"), "none")
    for method in ("bca", "percentile"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", DegenerateDataWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            result = bootstrap(
                (np.arange(num_samples),),
                lambda indices, axis: statistic(indices),
                vectorized=True,
                axis=-1,
                n_resamples=config.num_resamples,
                batch=max(1, _BATCH_VALUES // (num_samples * num_statistics)),
                confidence_level=config.confidence,
                method="BCa" if method == "bca" else method,
                rng=np.random.default_rng(config.seed),
            )
        low, high = (float(bound) for bound in result.confidence_interval)
        if np.isfinite(low) and np.isfinite(high):
            break
    return Interval(low, high, method)
