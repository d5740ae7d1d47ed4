"""Metrics of a short text: exact match and token F1. Scale 0..1.

In mode choice the text is the choice taken, so that ReCoRD's entities are compared as answers.
"""

import re
import string
from collections import Counter
from functools import lru_cache, partial

from evalsuite.errors import InputError
from evalsuite.metrics.base import Context, MeanMetric, MetricOptions
from evalsuite.metrics.choice import picked_text
from evalsuite.types import Answer, Metric, Mode, Sample

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NUMBER = re.compile(r"[-+]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)")


@lru_cache(maxsize=16_384)
def normalise_squad(text: str) -> str:
    """SQuAD's form of an answer: lower case, no punctuation, no English articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def token_f1(options: MetricOptions, sample: Sample, answer: Answer) -> float:
    """SQuAD's F1 over multisets of normalised tokens, against the best reference.

    As in SQuAD 2.0, an empty side is right exactly if both are empty.
    """
    text = _squad_form(options, picked_text(sample, answer)).split()
    return max(_f1(text, _squad_form(options, r).split()) for r in sample.references)


def _squad_form(options: MetricOptions, text: str) -> str:
    form = normalise_squad(text)
    return "" if options.no_answer is not None and form == options.no_answer else form


def _f1(text: list[str], reference: list[str]) -> float:
    if not text or not reference:
        return float(text == reference)
    shared = (Counter(text) & Counter(reference)).total()
    return 2 * shared / (len(text) + len(reference))


def squad_exact_match(options: MetricOptions, sample: Sample, answer: Answer) -> float:
    """1 if the text equals a reference after SQuAD's normalisation."""
    text = _squad_form(options, picked_text(sample, answer))
    return float(text in {_squad_form(options, reference) for reference in sample.references})


def extracted(options: MetricOptions, text: str) -> str | None:
    """What `options.extract` finds in an answer: its last match's first group. None: no match."""
    if options.extract is None:
        return text
    matches = list(re.finditer(options.extract, text))
    return matches[-1].group(1) if matches else None


def numbers_in(text: str) -> list[float]:
    """The numbers in a text, without thousands separators."""
    return [float(match.replace(",", "")) for match in _NUMBER.findall(text)]


def exact_match(options: MetricOptions, sample: Sample, answer: Answer) -> float:
    """1 if what is extracted from the text equals a reference, both stripped and folded."""
    text = extracted(options, picked_text(sample, answer))
    if text is None:
        return 0.0
    return float(_folded(options, text) in {_folded(options, r) for r in sample.references})


def _folded(options: MetricOptions, text: str) -> str:
    if options.numbers:
        text = re.sub(r"[,$€£%]", "", text).strip().removesuffix(".")
    if options.ignore_punctuation:
        text = text.translate(_PUNCTUATION)
    return (text.lower() if options.ignore_case else text).strip()


def last_number(sample: Sample, answer: Answer) -> float:
    """1 if the last number in the text is the number of a reference."""
    found = numbers_in(answer.text)
    return float(bool(found) and any(found[-1:] == numbers_in(r)[-1:] for r in sample.references))


def exact(name: str, context: Context) -> Metric:
    """exact_match."""
    options = context.options
    if options.extract is not None:
        try:
            groups = re.compile(options.extract).groups
        except re.error as error:
            raise InputError(f"options.extract: {options.extract!r}: {error}") from error
        if groups < 1:
            raise InputError(
                f"options.extract: {options.extract!r} has no group; put parentheses around the "
                "answer"
            )
    return MeanMetric(
        name,
        f"{name}|{exact_definition(options)}|agg:mean",
        context.mode,
        partial(exact_match, options),
    )


def exact_definition(options: MetricOptions) -> str:
    """The part of a signature that says what counts as equal."""
    parts = ["case:lc" if options.ignore_case else "case:mixed", "strip:yes"]
    parts += ["punct:no"] if options.ignore_punctuation else []
    parts += ["numbers:yes"] if options.numbers else []
    parts += [f"extract:{options.extract}"] if options.extract is not None else []
    return "|".join([*parts, "refs:any"])


def squad_exact(name: str, context: Context) -> Metric:
    """squad_exact_match."""
    signature = f"{name}|norm:squad{_no_answer(context)}|refs:any|agg:mean|scale:1"
    return MeanMetric(name, signature, context.mode, partial(squad_exact_match, context.options))


def squad_f1(name: str, context: Context) -> Metric:
    """token_f1."""
    signature = f"{name}|norm:squad{_no_answer(context)}|tokens:multiset|refs:max|agg:mean|scale:1"
    return MeanMetric(name, signature, context.mode, partial(token_f1, context.options))


def _no_answer(context: Context) -> str:
    return "" if context.options.no_answer is None else f"|no-answer:{context.options.no_answer}"


def number(name: str, context: Context) -> Metric:
    """exact_match_last_number."""
    return MeanMetric(name, f"{name}|refs:any|agg:mean", Mode.GENERATE, last_number)
