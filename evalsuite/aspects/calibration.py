"""Whether a model is as often right as it is sure.

Confidence is the softmax over a sample's choices at the choice taken. Errors of calibration are
weighted means over bins of |mean confidence - accuracy|, without debiasing, in equal-mass bins as
HELM has them (`ece_10_bin`; Kumar et al. 2019, arXiv 1909.10155, whose library cuts half-way
between neighbouring bins, so that equal confidences share a bin), and in bins of equal width (Guo
et al. 2017, arXiv 1706.04599). `adaptive` is the mean of the equal-mass error over all choices'
probabilities and not only that of the choice taken (Nixon et al. 2019, arXiv 1904.01685).

N samples, C choices, B bins.
"""

from array import array
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from evalsuite.metrics.choice import NORMALISERS, has_one_right, is_right, probabilities
from evalsuite.results import Cell, TaskResult
from evalsuite.stats import wilson
from evalsuite.types import Answer, Floats, Ints, Mode, RowKind, Sample

NUM_BINS = 10
FEW_SAMPLES = 300
"""Below this HELM calls the error of calibration unreliable."""
_NUM_DRAWS = 500
# As the library's: a logistic regression with next to no penalty, on log-odds that stay finite.
_PENALTY = 1e-10
_LEAST = 1e-12


def equal_mass_edges(confidences: Floats, num_bins: int) -> Floats:
    """[B]: upper edges of bins with equally many samples; fewer where confidences are equal."""
    parts = np.array_split(np.sort(confidences), min(num_bins, len(confidences)))
    cuts = [(one[-1] + next_[0]) / 2 for one, next_ in pairwise(parts)]
    return np.unique([*cuts, 1.0])


def equal_width_edges(num_bins: int) -> Floats:
    """[B]: upper edges of bins of equal width; an edge belongs to the bin below it."""
    return np.array([(index + 1) / num_bins for index in range(num_bins)])


def calibration_error(confidences: Floats, correct: Floats, edges: Floats) -> float:
    """The weighted mean over bins of |mean confidence - accuracy|, from [N] and [N] of 0 or 1."""
    gaps = _bin_sums(_bins(confidences, edges), len(edges), confidences - correct)
    return float(np.abs(gaps).sum() / len(confidences))


def adaptive_error(shares: Floats, targets: Floats, num_bins: int = NUM_BINS) -> float:
    """The mean over choices of the equal-mass error of each one's probability, from [N, C], [N]."""
    errors = []
    for choice in range(shares.shape[1]):
        column = shares[:, choice]
        edges = equal_mass_edges(column, num_bins)
        errors.append(calibration_error(column, (targets == choice).astype(float), edges))
    return float(np.mean(errors))


def selective_accuracies(confidences: Floats, correct: Floats) -> Floats:
    """[N]: accuracy over the k + 1 surest samples, for every k; of equals, the first come first."""
    order = np.argsort(-confidences, kind="stable")
    accuracies: Floats = np.cumsum(correct[order]) / np.arange(1, len(correct) + 1)
    return accuracies


def platt_scaled(confidences: Floats, correct: Floats) -> Floats:
    """[N]: confidences through the logistic curve that fits them best (Platt 1999), by Newton."""
    clipped = np.clip(confidences, _LEAST, 1 - _LEAST)
    inputs = np.stack([np.log(clipped / (1 - clipped)), np.ones(len(clipped))], axis=1)
    penalty = np.array([_PENALTY, 0.0])

    def loss(weights: Floats) -> float:
        logits = inputs @ weights
        return float((np.logaddexp(0, logits) - correct * logits).sum() + penalty @ weights**2 / 2)

    weights = np.zeros(2)
    for _ in range(200):
        fitted = _logistic(inputs @ weights)
        gradient = inputs.T @ (fitted - correct) + penalty * weights
        curvature = (inputs * (fitted * (1 - fitted))[:, None]).T @ inputs + np.diag(penalty)
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        while loss(weights - step) > loss(weights) and np.abs(step).max() > _LEAST:
            step = step / 2
        weights = weights - step
        if np.abs(step).max() <= _LEAST * max(1.0, float(np.abs(weights).max())):
            break
    return _logistic(inputs @ weights)


def reliability(confidences: Floats, correct: Floats, edges: Floats) -> list[dict[str, float]]:
    """One line per bin that holds samples: counts, means, and Wilson's interval of accuracy."""
    bins = _bins(confidences, edges)
    lines = []
    for index in np.unique(bins):
        inside = bins == index
        low, high = wilson(float(correct[inside].sum()), int(inside.sum()), 0.95)
        lines.append(
            {
                "upto": float(edges[index]),
                "num_samples": int(inside.sum()),
                "confidence": float(confidences[inside].mean()),
                "accuracy": float(correct[inside].mean()),
                "ci_low": low,
                "ci_high": high,
            }
        )
    return lines


def chance_errors(confidences: Floats, edges: Floats, seed: int) -> Floats:
    """Errors that a model with these confidences would show by chance if they were all true.

    Broecker and Smith 2007, "Increasing the reliability of reliability diagrams".
    """
    rng = np.random.default_rng(seed)
    bins, num = _bins(confidences, edges), len(edges)
    return np.array(
        [
            np.abs(_bin_sums(bins, num, confidences - (rng.random(len(bins)) < confidences))).sum()
            / len(bins)
            for _ in range(_NUM_DRAWS)
        ]
    )


def calibration_fields(
    samples: Sequence[Sample], answers: Iterable[Answer | None], seed: int = 0
) -> dict[str, Any] | None:
    """All of it as JSON values, over the answered samples; None without any, and where not exactly
    one choice of each is right."""
    if not all(map(has_one_right, samples)):
        return None
    # Flat, since there may be millions.
    flat, widths, right, targets, brier = (array("d") for _ in range(5))
    for sample, answer in zip(samples, answers, strict=True):
        if answer is not None:
            assert sample.target is not None
            share, target = probabilities(sample, answer), sample.target
            flat.extend(share)
            widths.append(len(share))
            right.append(is_right(NORMALISERS["accuracy"], sample, answer))
            targets.append(target)
            brier.append(((share - np.eye(len(share))[target]) ** 2).sum())
    if not widths:
        return None
    shares, starts = np.array(flat), np.cumsum([0, *widths[:-1]]).astype(int)
    confidences = np.maximum.reduceat(shares, starts).clip(0.0, 1.0)
    correct = np.array(right)
    edges = equal_mass_edges(confidences, NUM_BINS)
    error = calibration_error(confidences, correct, edges)
    by_chance = chance_errors(confidences, edges, seed)
    accuracies = selective_accuracies(confidences, correct)
    is_even = len(set(widths)) == 1
    return {
        "num_samples": len(correct),
        "signature": f"calibration|conf:softmax-loglik|bins:{NUM_BINS}|norm:l1|debiased:no",
        "ece": error,
        "ece_if_calibrated": float(by_chance.mean()),
        "p_calibrated": float((1 + (by_chance >= error - 1e-12).sum()) / (1 + len(by_chance))),
        "ece_1_bin": abs(float(confidences.mean() - correct.mean())),
        "ece_equal_width": calibration_error(confidences, correct, equal_width_edges(NUM_BINS)),
        "ece_adaptive": adaptive_error(shares.reshape(len(correct), -1), np.array(targets))
        if is_even
        else None,
        **_platt(confidences, correct),
        "brier": float(np.mean(brier)),
        "selective_accuracy_area": float(accuracies.mean()),
        "selective_accuracy_10": float(accuracies[int(0.1 * len(accuracies))]),
        "mean_confidence": float(confidences.mean()),
        "accuracy": float(correct.mean()),
        "reliability": reliability(confidences, correct, edges),
    }


def calibration(result: TaskResult, cell: Cell, seed: int) -> dict[str, Any] | None:
    """Of one row on one task; None where answers are no choices between log-likelihoods, or where
    not exactly one choice is right."""
    if result.task.spec.mode.answered_as is not Mode.CHOICE or cell.row.kind is RowKind.TRIVIAL:
        return None
    return calibration_fields(result.task.samples, (o.answer for o in cell.outcomes), seed)


def _platt(confidences: Floats, correct: Floats) -> dict[str, float]:
    # Where all are right or all are wrong, a constant fits; HELM has 0 there too.
    mixed = 0 < correct.sum() < len(correct)
    scaled = platt_scaled(confidences, correct) if mixed else correct
    edges = equal_mass_edges(scaled, NUM_BINS)
    return {
        "ece_platt": calibration_error(scaled, correct, edges),
        "ece_1_bin_platt": abs(float(scaled.mean() - correct.mean())),
    }


def _logistic(logits: Floats) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0, -logits)))


def _bins(confidences: Floats, edges: Floats) -> Ints:
    # A softmax may be one rounding above 1.
    return np.minimum(np.searchsorted(edges, confidences), len(edges) - 1)


def _bin_sums(bins: Ints, num_bins: int, values: Floats) -> Floats:
    return np.asarray(np.bincount(bins, values, minlength=num_bins), dtype=np.float64)
