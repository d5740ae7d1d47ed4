"""Metrics of log-likelihoods over choices. Scale 0..1.

`accuracy` takes the largest sum of log-probabilities; the others divide it by the choice's
characters or UTF-8 bytes, without the space in front (lm-evaluation-harness: acc, acc_norm,
acc_bytes), or subtract the choice's log-probability behind a context that says nothing (Brown et
al. 2020, section 2.4; lm-evaluation-harness: acc_mutual_info, whose context is empty).
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from evalsuite.errors import InputError
from evalsuite.metrics.base import Context, MeanMetric
from evalsuite.types import Answer, ChoiceScore, Floats, Metric, Mode, Sample

Normalise = Callable[[ChoiceScore], float]


def _unconditional(choice: ChoiceScore) -> float:
    assert choice.unconditional_logprob is not None, "a request without an unconditional prompt"
    return choice.logprob - choice.unconditional_logprob


NORMALISERS: Mapping[str, Normalise] = {
    "accuracy": lambda choice: choice.logprob,
    "accuracy_per_char": lambda choice: choice.logprob / max(1, choice.num_chars),
    "accuracy_per_byte": lambda choice: choice.logprob / max(1, choice.num_bytes),
    "accuracy_unconditional": _unconditional,
}
_NORMS = {
    "accuracy": "none",
    "accuracy_per_char": "char",
    "accuracy_per_byte": "byte",
    "accuracy_unconditional": "unconditional",
}


def picked(normalise: Normalise, sample: Sample, answer: Answer) -> int:
    """Index of the most likely choice, the first of equals; or of the choice taken as text."""
    if not answer.choices:
        return sample.options.index(answer.text)
    return int(np.argmax([normalise(choice) for choice in answer.choices]))


def picked_text(sample: Sample, answer: Answer) -> str:
    """The text generated, or the choice taken by raw log-likelihood."""
    if not sample.choices:
        return answer.text
    return sample.choices[picked(NORMALISERS["accuracy"], sample, answer)]


def probabilities(sample: Sample, answer: Answer) -> Floats:
    """[C]: softmax of the choices' log-likelihoods; all on the choice taken as text."""
    if not answer.choices:
        sure: Floats = np.eye(len(sample.choices))[sample.options.index(answer.text)]
        return sure
    logprobs = np.array([choice.logprob for choice in answer.choices])
    weights = np.exp(logprobs - logprobs.max())
    shares: Floats = weights / weights.sum()
    return shares


def is_right(normalise: Normalise, sample: Sample, answer: Answer) -> float:
    """1 if the choice taken is the target."""
    return float(picked(normalise, sample, answer) == sample.target)


def accuracy(name: str, context: Context) -> Metric:
    """accuracy, accuracy_per_char, accuracy_per_byte or accuracy_unconditional."""
    signature = f"{name}|loglik|norm:{_NORMS[name]}|agg:mean"
    return MeanMetric(name, signature, Mode.CHOICE, partial(is_right, NORMALISERS[name]))


def has_one_right(sample: Sample) -> bool:
    """Whether exactly one choice is right: what says how likely the truth was held."""
    if sample.target is None:
        return False
    if sample.target_scores:
        return sum(credit > 0 for credit in sample.target_scores) == 1
    right = {reference.strip() for reference in sample.references}
    texts = {choice.strip() for choice in sample.choices}
    return len(right & texts) < 2


def brier(name: str, context: Context) -> Metric:
    """Brier's score: squared distance of the softmax from the target, summed over choices.

    Raises InputError where not exactly one choice is right.
    """
    other = next((sample for sample in context.samples if not has_one_right(sample)), None)
    if other is not None:
        raise InputError(
            f"metrics: '{name}' needs one right choice in every row; row {other.id} has none or "
            "several"
        )

    def score(sample: Sample, answer: Answer) -> float:
        assert sample.target is not None
        target = np.eye(len(sample.choices))[sample.target]
        return float(((probabilities(sample, answer) - target) ** 2).sum())

    signature = f"{name}|softmax:loglik|sum:choices|agg:mean"
    return MeanMetric(name, signature, Mode.CHOICE, score, maximum=0.0, higher_is_better=False)


def target_score(name: str, context: Context) -> Metric:
    """BIG-bench's multiple_choice_grade: the credit of the most likely choice."""

    def score(sample: Sample, answer: Answer) -> float:
        return _credits(sample)[picked(NORMALISERS["accuracy"], sample, answer)]

    return MeanMetric(name, f"{name}|loglik|norm:none|agg:mean", Mode.CHOICE, score)


def target_mass(name: str, context: Context) -> Metric:
    """TruthfulQA's MC2: the share of probability on all choices that are right."""

    def score(sample: Sample, answer: Answer) -> float:
        right = np.array([credit > 0 for credit in _credits(sample)])
        return float(probabilities(sample, answer)[right].sum())

    return MeanMetric(name, f"{name}|softmax:loglik|agg:mean", Mode.CHOICE, score)


def _credits(sample: Sample) -> tuple[float, ...]:
    if sample.target_scores:
        return sample.target_scores
    return tuple(float(index == sample.target) for index in range(len(sample.choices)))
