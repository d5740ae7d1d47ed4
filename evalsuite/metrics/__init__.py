"""Metrics by name, each as the library that defines it has it, with a signature.

ROUGE: rouge-score. BLEU, chrF, TER: sacrebleu. Labels and correlations: the definitions of
scikit-learn and scipy. SQuAD, MultiRC, ReCoRD, BIG-bench, TruthfulQA and BBQ: their papers'.
docs/evaluation.md says what may be compared with what.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from evalsuite.errors import InputError, nearest
from evalsuite.metrics import choice, confusion, corpus, correlation, grouped, likelihood, text
from evalsuite.metrics.base import Context, MeanMetric, MetricOptions, SumMetric
from evalsuite.metrics.choice import NORMALISERS, picked
from evalsuite.metrics.rouge import rouge
from evalsuite.types import Answer, Ints, Metric, Mode, Sample, Scores

__all__ = [
    "METRICS",
    "NORMALISERS",
    "MeanMetric",
    "MetricOptions",
    "SumMetric",
    "build_metrics",
    "picked",
    "sample_groups",
    "score",
]

METRICS: Mapping[str, Callable[[str, Context], Metric]] = {
    "rouge1": rouge,
    "rouge2": rouge,
    "rougeL": rouge,
    "rougeLsum": rouge,
    "bleu": corpus.bleu,
    "bleu1": corpus.bleu,
    "bleu2": corpus.bleu,
    "bleu3": corpus.bleu,
    "bleu4": corpus.bleu,
    "chrf": corpus.chrf,
    "ter": corpus.ter,
    "exact_match": text.exact,
    "exact_match_last_number": text.number,
    "squad_exact_match": text.squad_exact,
    "token_f1": text.squad_f1,
    "accuracy": choice.accuracy,
    "accuracy_per_char": choice.accuracy,
    "accuracy_per_byte": choice.accuracy,
    "accuracy_unconditional": choice.accuracy,
    "accuracy_macro": grouped.accuracy_macro,
    "brier": choice.brier,
    "target_score": choice.target_score,
    "target_mass": choice.target_mass,
    "label_accuracy": confusion.accuracy_labels,
    "mcc": confusion.mcc,
    "f1": confusion.f1,
    "f1_macro": confusion.f1_macro,
    "pearson": correlation.pearson,
    "spearman": correlation.spearman,
    "parse_rate": correlation.parse_rate,
    "question_exact_match": grouped.question_exact_match,
    "gender_parity": grouped.gender_parity,
    "accuracy_ambiguous": grouped.accuracy_where,
    "accuracy_disambiguated": grouped.accuracy_where,
    "bias_ambiguous": grouped.bias,
    "bias_disambiguated": grouped.bias,
    "cross_entropy": likelihood.cross_entropy,
    "perplexity": likelihood.perplexity,
    "word_perplexity": likelihood.word_perplexity,
    "bits_per_byte": likelihood.bits_per_byte,
}


def build_metrics(
    names: Sequence[str], mode: Mode, options: MetricOptions, samples: Sequence[Sample]
) -> tuple[Metric, ...]:
    """The named metrics for a task's samples.

    Raises InputError for an unknown name, or a metric that does not fit the mode.
    """
    context = Context(options, samples, mode.answered_as)
    metrics = []
    for name in names:
        if name not in METRICS:
            raise InputError(f"metrics: unknown metric '{name}'; {nearest(name, METRICS)}")
        metric = METRICS[name](name, context)
        if metric.mode is not mode.answered_as:
            raise InputError(f"metrics: '{name}' needs mode '{metric.mode}', the task has '{mode}'")
        metrics.append(metric)
    return tuple(metrics)


def score(metric: Metric, samples: Sequence[Sample], answers: Sequence[Answer | None]) -> Scores:
    """Statistics of every answered sample; an unanswered one stays unscored."""
    scored = np.zeros(len(samples), dtype=np.bool_)
    statistics = np.zeros((len(samples), 1))
    for row, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
        if answer is not None:
            found = metric.statistics(sample, answer)
            if statistics.shape[1] != len(found):
                statistics = np.zeros((len(samples), len(found)))
            statistics[row] = found
            scored[row] = True
    if isinstance(metric, SumMetric) and metric.combine is not None and scored.any():
        answered = [samples[int(row)] for row in np.flatnonzero(scored)]
        statistics[scored] = metric.combine(answered, statistics[scored])
    return Scores(metric, statistics, scored, sample_groups(samples))


def sample_groups(samples: Sequence[Sample]) -> Ints | None:
    """[N]: a number per group, where some samples name one. A sample without one is alone."""
    names = [sample.group for sample in samples if sample.group]
    if len(set(names)) == len(names):
        return None
    numbers: dict[str, int] = {}
    return np.array(
        [
            numbers.setdefault(sample.group, row) if sample.group else row
            for row, sample in enumerate(samples)
        ],
        dtype=np.int64,
    )
