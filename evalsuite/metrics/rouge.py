"""ROUGE by rouge-score: the plain mean of per-sample F1 against the best reference.

With several references each ROUGE type takes the one with the highest F1 on its own. The mean is
plain, not the library's bootstrap aggregate. Scale 0..1.
"""

from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import version

from rouge_score import rouge_scorer, tokenizers

from evalsuite.metrics.base import Context, MeanMetric
from evalsuite.types import Answer, Metric, Mode, Sample


class CachedTokenizer:
    """rouge-score's own tokenizer, once per text.

    Stemming is most of the cost of ROUGE, and every reference comes up once per ROUGE type and row.
    """

    def __init__(self, stemmer: bool) -> None:
        self.tokenize = lru_cache(maxsize=16_384)(tokenizers.DefaultTokenizer(stemmer).tokenize)


# One per stemmer setting, so that the ROUGE types of a task share tokens.
_tokenizer = lru_cache(maxsize=2)(CachedTokenizer)


def rouge_f1(name: str, tokenizer: CachedTokenizer) -> Callable[[Sample, Answer], float]:
    """F1 of one ROUGE type against the best reference."""
    scorer = rouge_scorer.RougeScorer([name], tokenizer=tokenizer)

    def f1(sample: Sample, answer: Answer) -> float:
        references = [reference.strip() for reference in sample.references]
        return float(scorer.score_multi(references, answer.text.strip())[name].fmeasure)

    return f1


def rouge(name: str, context: Context) -> Metric:
    """rouge1, rouge2, rougeL or rougeLsum."""
    stem = "yes" if context.options.stemmer else "no"
    sentences = "|lsum:newline" if name == "rougeLsum" else ""
    signature = f"{name}|rouge-score:{version('rouge-score')}|stem:{stem}{sentences}"
    score = rouge_f1(name, _tokenizer(context.options.stemmer))
    return MeanMetric(name, f"{signature}|refs:max|agg:mean", Mode.GENERATE, score)
