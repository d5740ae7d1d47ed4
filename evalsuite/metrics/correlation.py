"""Pearson's and Spearman's correlation between numbers in answers and in references.

As `scipy.stats.pearsonr` and `spearmanr`, computed from sums so that a resample is exact, ranks
included. An answer without a number counts as `options.unparsable` (T5 takes -1), and `parse_rate`
says how many there were. What is undefined (a constant) is 0. Scale -1..1.
"""

import math

import numpy as np

from evalsuite.errors import InputError
from evalsuite.metrics.base import Context, MeanMetric, MetricOptions, SumMetric, ratio
from evalsuite.metrics.text import extracted, numbers_in
from evalsuite.types import Answer, Floats, Metric, Mode, Sample

# Bounds a task's statistics of Spearman's correlation, which count pairs of levels, to 400 MB.
_MAX_VALUES = 50_000_000


def answered_number(options: MetricOptions, answer: Answer) -> float | None:
    """The first number of an answer, rounded to options.number_step."""
    found = numbers_in(extracted(options, answer.text) or "")
    if not found:
        return None
    step = options.number_step
    return round(found[0] / step) * step if step else found[0]


def _gold(name: str, sample: Sample) -> float:
    found = numbers_in(sample.references[0])
    if not found:
        raise InputError(
            f"metrics: '{name}': the reference {sample.references[0]!r} of row {sample.id} is no "
            "number"
        )
    return found[0]


def _definition(name: str, options: MetricOptions) -> str:
    step = f"{options.number_step:g}" if options.number_step else "none"
    return f"{name}|step:{step}|unparsable:{options.unparsable:g}|undefined:0"


def pearson(name: str, context: Context) -> Metric:
    """Pearson's correlation. Statistics: 1, x, y, xx, yy, xy, about the mean reference."""
    options = context.options
    golds = {id(sample): _gold(name, sample) for sample in context.samples}
    centre = float(np.mean(list(golds.values())))

    def of_sample(sample: Sample, answer: Answer) -> Floats:
        found = answered_number(options, answer)
        x = (options.unparsable if found is None else found) - centre
        y = _gold(name, sample) - centre
        return np.array([1.0, x, y, x * x, y * y, x * y])

    return SumMetric(
        name, _definition(name, options), Mode.GENERATE, of_sample, pearson_of,
        lambda row: float(row[1] + centre),
    )  # fmt: skip


def pearson_of(sums: Floats) -> Floats:
    """[...] from sums [..., 6] of 1, x, y, xx, yy, xy."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread = (n * xx - x * x) * (n * yy - y * y)
    # Rounding leaves a hair of spread in a constant.
    spread = np.where(spread > 1e-12 * (n * xx) * (n * yy), spread, 0.0)
    return ratio(n * xy - x * y, np.sqrt(spread))


def spearman(name: str, context: Context) -> Metric:
    """Spearman's correlation. Statistics: counts of pairs of levels, reference by answer.

    Answers are held at the nearest level: multiples of options.number_step within the whole numbers
    around the references, or the references' own values without a step; and one level for answers
    without number.
    """
    options = context.options
    golds = sorted({_gold(name, sample) for sample in context.samples})
    if options.number_step:
        bounds = math.floor(golds[0]), math.ceil(golds[-1])
        first, last = (round(bound / options.number_step) for bound in bounds)
        levels = np.arange(first, last + 1) * options.number_step
    else:
        levels = np.array(golds)
    num_values = len(context.samples) * len(golds) * (len(levels) + 1)
    if num_values > _MAX_VALUES:
        raise InputError(
            f"metrics: '{name}': {len(golds)} different references and {len(levels)} levels of "
            "answers are too many; raise options.number_step"
        )
    values = np.unique([*levels, options.unparsable])
    shape = (len(golds), len(values))

    def of_sample(sample: Sample, answer: Answer) -> Floats:
        found = answered_number(options, answer)
        value = options.unparsable if found is None else levels[np.abs(levels - found).argmin()]
        counts = np.zeros(shape)
        place = np.searchsorted(golds, _gold(name, sample)), np.searchsorted(values, value)
        counts[place] = 1.0
        return counts.ravel()

    def of_sums(sums: Floats) -> Floats:
        return spearman_of(sums.reshape(*sums.shape[:-1], *shape))

    def of_item(row: Floats) -> float:
        return float(values[np.argmax(row.reshape(shape).sum(axis=0))])

    return SumMetric(
        name, f"{_definition(name, options)}|levels:{len(levels)}", Mode.GENERATE, of_sample,
        of_sums, of_item,
    )  # fmt: skip


def spearman_of(counts: Floats) -> Floats:
    """[...] from counts [..., X, Y] of pairs of levels, both in rising order."""
    by_x, by_y = counts.sum(axis=-1), counts.sum(axis=-2)
    total = counts.sum(axis=(-2, -1))

    def ranks(marginal: Floats) -> Floats:
        """Mid-ranks of the levels, about their mean."""
        return np.asarray(
            marginal.cumsum(axis=-1) - marginal / 2 - total[..., None] / 2, dtype=np.float64
        )

    x, y = ranks(by_x), ranks(by_y)
    covariance = np.einsum("...x,...xy,...y->...", x, counts, y)
    spread = (by_x * x * x).sum(axis=-1) * (by_y * y * y).sum(axis=-1)
    return ratio(covariance, np.sqrt(spread))


def parse_rate(name: str, context: Context) -> Metric:
    """The share of answers that hold a number."""

    def score(sample: Sample, answer: Answer) -> float:
        return float(answered_number(context.options, answer) is not None)

    return MeanMetric(name, f"{name}|agg:mean", Mode.GENERATE, score)
