"""Metrics, each computed by the library that defines it.

ROUGE: rouge-score (plain mean of per-sample F1; with several references the best one, for each
ROUGE type on its own). BLEU and chrF: sacrebleu (corpus level). Values keep the library's scale:
0..1 for ROUGE, accuracy and exact match, 0..100 for BLEU and chrF.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from typing import Any

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as checked_dataclass
from rouge_score import rouge_scorer, tokenizers
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from evalsuite.errors import InputError, nearest
from evalsuite.types import Answer, ChoiceScore, Floats, Metric, Mode, Sample, Scores


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MetricOptions:
    """Options of the metrics of one task; every one of them is part of a signature."""

    stemmer: bool = True
    """ROUGE: Porter stemmer, as in HELM and most published summarisation numbers."""
    tokenize: str = "13a"
    """BLEU: sacrebleu's tokenizer."""
    lowercase: bool = False
    """BLEU and chrF: compare lower case."""
    word_order: int = 0
    """chrF: 2 makes it chrF++."""
    ignore_case: bool = False
    """Exact match."""


@dataclass(frozen=True)
class MeanMetric:
    """The mean of a score per sample. Statistics: [score, 1]."""

    name: str
    signature: str
    mode: Mode
    score: Callable[[Sample, Answer], float]
    maximum: float = 1.0

    def statistics(self, sample: Sample, answer: Answer) -> Floats:
        """[score, 1]."""
        return np.array([self.score(sample, answer), 1.0])

    def aggregate(self, sums: Floats) -> Floats:
        """The mean, [...] from [..., 2]."""
        return np.asarray(sums[..., 0] / sums[..., 1])

    def item(self, statistics: Floats) -> float:
        """The sample's own score."""
        return float(statistics[0])


@dataclass(frozen=True)
class CorpusMetric:
    """A sacrebleu metric; statistics are sacrebleu's own segment statistics.

    sacrebleu's significance tests use the same two underscored methods of its Metric interface;
    the public ones offer no statistics.
    """

    name: str
    signature: str
    corpus: Any
    sentence: Any
    """The same metric with the options meant for one sentence."""
    mode: Mode = Mode.GENERATE
    maximum: float = 100.0

    def statistics(self, sample: Sample, answer: Answer) -> Floats:
        """sacrebleu's segment statistics."""
        references = [[reference.strip()] for reference in sample.references]
        segments = self.corpus._extract_corpus_statistics([answer.text.strip()], references)
        return np.array(segments[0], dtype=np.float64)

    def aggregate(self, sums: Floats) -> Floats:
        """Corpus scores, [...] from [..., K]."""
        return np.apply_along_axis(partial(self._compute, self.corpus), -1, sums)

    def item(self, statistics: Floats) -> float:
        """The sentence-level score."""
        return self._compute(self.sentence, statistics)

    @staticmethod
    def _compute(metric: Any, statistics: Floats) -> float:
        # A fresh list: sacrebleu's add-k smoothing writes into its argument.
        return float(metric._compute_score_from_stats(statistics.tolist()).score)


class CachedTokenizer:
    """rouge-score's own tokenizer, once per text.

    Stemming is most of the cost of ROUGE, and every reference comes up once per ROUGE type and row.
    """

    def __init__(self, stemmer: bool) -> None:
        self.tokenize = lru_cache(maxsize=16_384)(tokenizers.DefaultTokenizer(stemmer).tokenize)


@dataclass(frozen=True)
class _Context:
    """What the metrics of one task are built from."""

    options: MetricOptions
    samples: Sequence[Sample]
    tokenizer: CachedTokenizer


def rouge_f1(name: str, tokenizer: CachedTokenizer) -> Callable[[Sample, Answer], float]:
    """F1 of one ROUGE type against the best reference."""
    scorer = rouge_scorer.RougeScorer([name], tokenizer=tokenizer)

    def f1(sample: Sample, answer: Answer) -> float:
        references = [reference.strip() for reference in sample.references]
        return float(scorer.score_multi(references, answer.text.strip())[name].fmeasure)

    return f1


def exact_match(options: MetricOptions, sample: Sample, answer: Answer) -> float:
    """1 if the stripped text equals a stripped reference."""
    fold = str.lower if options.ignore_case else str
    return float(fold(answer.text.strip()) in {fold(r.strip()) for r in sample.references})


NORMALISERS: Mapping[str, Callable[[ChoiceScore], float]] = {
    "accuracy": lambda choice: choice.logprob,
    "accuracy_per_char": lambda choice: choice.logprob / max(1, choice.num_chars),
    "accuracy_per_byte": lambda choice: choice.logprob / max(1, choice.num_bytes),
}


def picked(normalise: Callable[[ChoiceScore], float], sample: Sample, answer: Answer) -> int:
    """Index of the most likely choice, the first of equals; or of the choice taken as text."""
    if not answer.choices:
        return sample.choices.index(answer.text)
    return int(np.argmax([normalise(choice) for choice in answer.choices]))


def _rouge(name: str, context: _Context) -> Metric:
    stem = "yes" if context.options.stemmer else "no"
    sentences = "|lsum:newline" if name == "rougeLsum" else ""
    signature = f"{name}|rouge-score:{version('rouge-score')}|stem:{stem}{sentences}"
    return MeanMetric(
        name, f"{signature}|refs:max|agg:mean", Mode.GENERATE, rouge_f1(name, context.tokenizer)
    )


def _exact_match(name: str, context: _Context) -> Metric:
    case = "lc" if context.options.ignore_case else "mixed"
    signature = f"{name}|case:{case}|strip:yes|refs:any|agg:mean"
    return MeanMetric(name, signature, Mode.GENERATE, partial(exact_match, context.options))


def _accuracy(name: str, context: _Context) -> Metric:
    normalise = NORMALISERS[name]

    def score(sample: Sample, answer: Answer) -> float:
        return float(picked(normalise, sample, answer) == sample.target)

    norm = {"accuracy": "none", "accuracy_per_char": "char", "accuracy_per_byte": "byte"}[name]
    return MeanMetric(name, f"{name}|loglik|norm:{norm}|agg:mean", Mode.CHOICE, score)


def _bleu(name: str, context: _Context) -> Metric:
    options = context.options
    settings: dict[str, Any] = {"tokenize": options.tokenize, "lowercase": options.lowercase}
    if options.tokenize not in BLEU.TOKENIZERS:
        remedy = nearest(options.tokenize, BLEU.TOKENIZERS)
        raise InputError(f"options.tokenize: unknown tokenizer '{options.tokenize}'; {remedy}")
    try:
        corpus, sentence = BLEU(**settings), BLEU(**settings, effective_order=True)
    except (ImportError, RuntimeError) as error:
        raise InputError(f"options.tokenize: '{options.tokenize}': {error}") from error
    return CorpusMetric(name, _signature(name, corpus, context.samples), corpus, sentence)


def _chrf(name: str, context: _Context) -> Metric:
    corpus = CHRF(word_order=context.options.word_order, lowercase=context.options.lowercase)
    return CorpusMetric(name, _signature(name, corpus, context.samples), corpus, corpus)


def _signature(name: str, corpus: Any, samples: Sequence[Sample]) -> str:
    counts = {len(sample.references) for sample in samples}
    # sacrebleu notes the number of references when it reads a corpus; -1 stands for "varies".
    corpus.num_refs = counts.pop() if len(counts) == 1 else -1
    return f"{name}|{corpus.get_signature().format()}"


METRICS: Mapping[str, Callable[[str, _Context], Metric]] = {
    "rouge1": _rouge,
    "rouge2": _rouge,
    "rougeL": _rouge,
    "rougeLsum": _rouge,
    "bleu": _bleu,
    "chrf": _chrf,
    "exact_match": _exact_match,
    "accuracy": _accuracy,
    "accuracy_per_char": _accuracy,
    "accuracy_per_byte": _accuracy,
}


def build_metrics(
    names: Sequence[str], mode: Mode, options: MetricOptions, samples: Sequence[Sample]
) -> tuple[Metric, ...]:
    """The named metrics for a task's samples.

    Raises InputError for an unknown name, or a metric that does not fit the mode.
    """
    context = _Context(options, samples, CachedTokenizer(options.stemmer))
    metrics = []
    for name in names:
        if name not in METRICS:
            raise InputError(f"metrics: unknown metric '{name}'; {nearest(name, METRICS)}")
        metric = METRICS[name](name, context)
        if metric.mode is not mode:
            raise InputError(f"metrics: '{name}' needs mode '{metric.mode}', the task has '{mode}'")
        metrics.append(metric)
    return tuple(metrics)


def score(metric: Metric, samples: Sequence[Sample], answers: Sequence[Answer | None]) -> Scores:
    """Statistics of every answered sample; an unanswered one stays unscored."""
    scored = np.array([answer is not None for answer in answers], dtype=np.bool_)
    rows = [
        metric.statistics(sample, answer)
        for sample, answer in zip(samples, answers, strict=True)
        if answer is not None
    ]
    statistics = np.zeros((len(samples), len(rows[0]) if rows else 1))
    if rows:
        statistics[scored] = np.stack(rows)
    return Scores(metric, statistics, scored)
