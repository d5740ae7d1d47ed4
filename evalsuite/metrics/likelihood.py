"""Metrics of a text's own log-likelihood: lower is better.

Sums over the corpus, then one ratio: a long text weighs more than a short one. The text is the
sample's completion; what stands in its prompt is read and not counted.
"""

import math

import numpy as np

from evalsuite.metrics.base import Context, SumMetric, ratio
from evalsuite.types import Answer, Floats, Metric, Mode, Sample


def _counts(sample: Sample, answer: Answer) -> Floats:
    """[nats, tokens, UTF-8 bytes, words]; no uncertainty where the answer is the text itself."""
    text = sample.choices[0]
    sizes = [float(len(text.encode())), float(len(text.split()))]
    if not answer.choices:
        return np.array([0.0, 1.0, *sizes])
    choice = answer.choices[0]
    return np.array([-choice.logprob, float(choice.num_tokens), *sizes])


def _metric(name: str, unit: str, place: int, exponential: bool, scale: float = 1.0) -> Metric:
    def of_sums(sums: Floats) -> Floats:
        value = ratio(sums[..., 0], sums[..., place]) * scale
        return np.exp(value) if exponential else value

    return SumMetric(
        name, f"{name}|per:{unit}|agg:corpus", Mode.LIKELIHOOD, _counts, of_sums,
        lambda row: float(of_sums(row)), maximum=1.0 if exponential else 0.0,
        higher_is_better=False,
    )  # fmt: skip


def cross_entropy(name: str, context: Context) -> Metric:
    """Nats per token; comparable between models of one tokenizer only."""
    return _metric(name, "token", 1, exponential=False)


def perplexity(name: str, context: Context) -> Metric:
    """exp of nats per token; comparable between models of one tokenizer only."""
    return _metric(name, "token", 1, exponential=True)


def word_perplexity(name: str, context: Context) -> Metric:
    """exp of nats per word, words being what white space separates."""
    return _metric(name, "word", 3, exponential=True)


def bits_per_byte(name: str, context: Context) -> Metric:
    """Bits per UTF-8 byte; comparable between tokenizers."""
    return _metric(name, "byte", 2, exponential=False, scale=1 / math.log(2))
