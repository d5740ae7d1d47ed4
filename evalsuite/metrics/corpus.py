"""BLEU, chrF and TER by sacrebleu, at corpus level. Scale 0..100.

`bleu1` to `bleu4` are cumulative: the geometric mean of the precisions up to that order, times the
brevity penalty. HELM's `bleu_4` is the 4-gram precision alone, another number.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from evalsuite.errors import InputError, nearest
from evalsuite.metrics.base import Context
from evalsuite.types import Answer, Floats, Metric, Mode, Sample


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
    higher_is_better: bool = True

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


def bleu(name: str, context: Context) -> Metric:
    """`bleu`, or `bleu1` to `bleu4` with that many n-gram orders."""
    options = context.options
    settings: dict[str, Any] = {"tokenize": options.tokenize, "lowercase": options.lowercase}
    settings["max_ngram_order"] = order = int(name.removeprefix("bleu") or 4)
    if options.tokenize not in BLEU.TOKENIZERS:
        remedy = nearest(options.tokenize, BLEU.TOKENIZERS)
        raise InputError(f"options.tokenize: unknown tokenizer '{options.tokenize}'; {remedy}")
    try:
        corpus, sentence = BLEU(**settings), BLEU(**settings, effective_order=True)
    except (ImportError, RuntimeError) as error:
        raise InputError(f"options.tokenize: '{options.tokenize}': {error}") from error
    signature = _signature(name, corpus, context)
    # sacrebleu's own signature leaves the order out.
    signature += f"|order:{order}" if order != 4 else ""
    return CorpusMetric(name, signature, corpus, sentence)


def chrf(name: str, context: Context) -> Metric:
    """chrF, or chrF++ with options.word_order 2."""
    corpus = CHRF(word_order=context.options.word_order, lowercase=context.options.lowercase)
    return CorpusMetric(name, _signature(name, corpus, context), corpus, corpus)


def ter(name: str, context: Context) -> Metric:
    """Translation edit rate: edits per 100 reference words, so 0 is best."""
    options = context.options
    corpus = TER(normalized=options.ter_normalized, case_sensitive=options.ter_case_sensitive)
    signature = _signature(name, corpus, context)
    return CorpusMetric(name, signature, corpus, corpus, maximum=0.0, higher_is_better=False)


def _signature(name: str, corpus: Any, context: Context) -> str:
    # sacrebleu notes the number of references when it reads a corpus; -1 stands for "varies".
    count = context.num_references
    corpus.num_refs = -1 if count == "var" else int(count)
    return f"{name}|{corpus.get_signature().format()}"
