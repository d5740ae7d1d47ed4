"""Metrics of a confusion matrix: MCC, F1 of one label, macro F1, accuracy of labels.

Definitions as in scikit-learn's `matthews_corrcoef` and `f1_score`, computed here from counts, so
that a resample costs a sum. A generated text that is none of the labels is wrong in every metric
and is no label of its own. What is undefined (a constant prediction's MCC) is 0.

C labels; counts are [..., C, C + 1], true label by predicted one, the last column for no label.
"""

from collections.abc import Callable

import numpy as np

from evalsuite.errors import InputError
from evalsuite.metrics.base import Context, SumMetric, ratio
from evalsuite.metrics.choice import NORMALISERS, picked
from evalsuite.types import Answer, Floats, Metric, Mode, Sample

# A confusion matrix of more labels than this is a sign of free text.
_MAX_LABELS = 200


def mcc_of(counts: Floats) -> Floats:
    """Matthews' correlation for any number of labels (Gorodkin 2004)."""
    total = counts.sum(axis=(-2, -1))
    right = np.trace(counts, axis1=-2, axis2=-1)
    true, taken = counts.sum(axis=-1), counts.sum(axis=-2)
    covariance = right * total - (true * taken[..., :-1]).sum(axis=-1)
    spread_true = total**2 - (true**2).sum(axis=-1)
    spread_taken = total**2 - (taken**2).sum(axis=-1)
    return ratio(covariance, np.sqrt(spread_true * spread_taken))


def f1_by_label(counts: Floats) -> Floats:
    """[..., C]: each label's F1, 0 for a label that never occurs."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    both = counts.sum(axis=-1) + counts.sum(axis=-2)[..., :-1]
    return ratio(2 * right, both)


def f1_macro_of(counts: Floats) -> Floats:
    """The mean F1 of the labels that occur, as truth or as prediction."""
    occurs = counts.sum(axis=-1) + counts.sum(axis=-2)[..., :-1] > 0
    return ratio(f1_by_label(counts).sum(axis=-1), occurs.sum(axis=-1))


def mcc(name: str, context: Context) -> Metric:
    """Matthews' correlation coefficient, -1..1."""
    return _metric(name, "gorodkin|undefined:0", context, mcc_of)


def f1_macro(name: str, context: Context) -> Metric:
    """Macro F1."""
    return _metric(name, "agg:mean-over-labels", context, f1_macro_of)


def f1(name: str, context: Context) -> Metric:
    """F1 of the positive label."""
    positive = context.options.positive
    if not 0 <= positive < len(_labels(name, context)):
        raise InputError(f"options.positive: {positive} is no index of a label")
    return _metric(
        name, f"positive:{positive}", context, lambda counts: f1_by_label(counts)[..., positive]
    )


def accuracy_labels(name: str, context: Context) -> Metric:
    """The share of samples whose generated text is their label."""
    return _metric(
        name, "agg:mean", context,
        lambda counts: ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1))),
    )  # fmt: skip


def _labels(name: str, context: Context) -> list[str]:
    """Texts of the labels; in mode choice only their number counts."""
    if context.mode is Mode.CHOICE:
        return [str(i) for i in range(max(len(sample.choices) for sample in context.samples))]
    fold = str.lower if context.options.ignore_case else str
    labels = sorted({fold(sample.references[0].strip()) for sample in context.samples})
    if len(labels) > _MAX_LABELS:
        raise InputError(
            f"metrics: '{name}' found {len(labels)} different references, at most {_MAX_LABELS} "
            "can be labels"
        )
    return labels


def _metric(
    name: str, definition: str, context: Context, of_counts: Callable[[Floats], Floats]
) -> Metric:
    labels = _labels(name, context)
    size = len(labels)
    index = {label: place for place, label in enumerate(labels)}
    fold = str.lower if context.options.ignore_case else str

    def of_sample(sample: Sample, answer: Answer) -> Floats:
        counts = np.zeros((size, size + 1))
        if context.mode is Mode.CHOICE:
            true, taken = sample.target or 0, picked(NORMALISERS["accuracy"], sample, answer)
        else:
            true = index[fold(sample.references[0].strip())]
            taken = index.get(fold(answer.text.strip()), size)
        counts[true, taken] = 1.0
        return counts.ravel()

    def matrix(values: Floats) -> Floats:
        return values.reshape(*values.shape[:-1], size, size + 1)

    kind = "loglik|norm:none" if context.mode is Mode.CHOICE else "text"
    return SumMetric(
        name, f"{name}|{kind}|labels:{size}|{definition}", context.mode, of_sample,
        lambda sums: of_counts(matrix(sums)), lambda row: float(np.trace(matrix(row))),
    )  # fmt: skip
