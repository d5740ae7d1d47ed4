"""Metrics against the libraries that define them."""

import math
import random

import numpy as np
import pytest
import sacrebleu
from rouge_score import rouge_scorer

from evalsuite.errors import InputError
from evalsuite.metrics import METRICS, MetricOptions, build_metrics, score
from evalsuite.types import Answer, ChoiceScore, Metric, Mode, Sample

TEXT = "the cats were sitting on mats, running; Café is OPEN! dogs don't bark 12 3.5 times"
WORDS = TEXT.split()


def texts(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [
        "".join(rng.choice(WORDS) + rng.choice((" ", " ", "\n")) for _ in range(rng.randint(1, 14)))
        for _ in range(count)
    ]


def samples_with(num_references: int, count: int = 40) -> list[Sample]:
    columns = [texts(100 + column, count) for column in range(num_references)]
    return [Sample(str(i), "in", refs) for i, refs in enumerate(zip(*columns, strict=True))]


def metric(name: str, samples: list[Sample], **options: object) -> Metric:
    mode = Mode.CHOICE if samples[0].choices else Mode.GENERATE
    return build_metrics([name], mode, MetricOptions(**options), samples)[0]


def answers_of(hypotheses: list[str]) -> list[Answer]:
    return [Answer(text=text) for text in hypotheses]


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
@pytest.mark.parametrize("stemmer", [True, False])
@pytest.mark.parametrize("num_references", [1, 3])
def test_rouge(name: str, stemmer: bool, num_references: int) -> None:
    samples = samples_with(num_references)
    hypotheses = texts(1, len(samples))
    scorer = rouge_scorer.RougeScorer([name], use_stemmer=stemmer)
    expected = [
        max(scorer.score(ref.strip(), text.strip())[name].fmeasure for ref in sample.references)
        for sample, text in zip(samples, hypotheses, strict=True)
    ]
    rouge = metric(name, samples, stemmer=stemmer)
    scores = score(rouge, samples, answers_of(hypotheses))
    assert scores.value == pytest.approx(np.mean(expected), abs=1e-12)
    assert [rouge.item(row) for row in scores.statistics] == pytest.approx(expected)
    assert f"|stem:{'yes' if stemmer else 'no'}|" in rouge.signature


def test_rouge_lsum_reads_lines_and_rouge_l_does_not() -> None:
    samples = [Sample("1", "in", ("a b c\nd e f",))]
    answers = [Answer(text="d e f\na b c")]
    assert score(metric("rougeLsum", samples), samples, answers).value == 1.0
    assert score(metric("rougeL", samples), samples, answers).value == 0.5


@pytest.mark.parametrize("num_references", [1, 3])
@pytest.mark.parametrize(
    ("name", "options", "library"),
    [
        ("bleu", {}, sacrebleu.BLEU()),
        ("bleu", {"lowercase": True, "tokenize": "char"}, sacrebleu.BLEU(True, tokenize="char")),
        ("chrf", {}, sacrebleu.CHRF()),
        ("chrf", {"word_order": 2}, sacrebleu.CHRF(word_order=2)),
    ],
)
def test_sacrebleu(name: str, options: dict[str, object], library, num_references: int) -> None:
    samples = samples_with(num_references)
    hypotheses = texts(2, len(samples))
    streams = list(zip(*([r.strip() for r in s.references] for s in samples), strict=True))
    expected = library.corpus_score([text.strip() for text in hypotheses], streams)
    ours = metric(name, samples, **options)
    assert score(ours, samples, answers_of(hypotheses)).value == pytest.approx(
        expected.score, abs=1e-9
    )
    assert ours.signature == f"{name}|{library.get_signature()}"


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_summed_statistics_give_the_corpus_score_of_any_resample(name: str) -> None:
    samples = samples_with(1)
    hypotheses = texts(3, len(samples))
    ours = metric(name, samples)
    scores = score(ours, samples, answers_of(hypotheses))
    draws = np.random.default_rng(0).integers(0, len(samples), (5, len(samples)))
    values = ours.aggregate(scores.statistics[draws].sum(axis=1))
    library = {"bleu": sacrebleu.BLEU, "chrf": sacrebleu.CHRF}[name]()
    for draw, value in zip(draws, values, strict=True):
        drawn = [hypotheses[i].strip() for i in draw]
        references = [samples[i].references[0].strip() for i in draw]
        assert value == pytest.approx(library.corpus_score(drawn, [references]).score, abs=1e-9)


def test_item_bleu_is_sentence_bleu() -> None:
    samples = samples_with(1)
    hypotheses = texts(4, len(samples))
    bleu = metric("bleu", samples)
    for row, sample, text in zip(
        score(bleu, samples, answers_of(hypotheses)).statistics, samples, hypotheses, strict=True
    ):
        expected = sacrebleu.sentence_bleu(text.strip(), [sample.references[0].strip()]).score
        assert bleu.item(row) == pytest.approx(expected)


def test_unequal_numbers_of_references_are_signed_as_such() -> None:
    samples = [Sample("1", "in", ("a b",)), Sample("2", "in", ("a b", "c d"))]
    assert "|nrefs:var|" in metric("bleu", samples).signature


@pytest.mark.parametrize(
    ("text", "ignore_case", "expected"),
    [(" Yes\n", False, 1.0), ("yes", False, 0.0), ("yes", True, 1.0), ("Yes.", True, 0.0)],
)
def test_exact_match(text: str, ignore_case: bool, expected: float) -> None:
    samples = [Sample("1", "in", ("No", " Yes"))]
    ours = metric("exact_match", samples, ignore_case=ignore_case)
    assert score(ours, samples, [Answer(text=text)]).value == expected


# The right choice, of two, by raw log-likelihood, per character and per byte.
@pytest.mark.parametrize(
    ("name", "picks"), [("accuracy", 0), ("accuracy_per_char", 1), ("accuracy_per_byte", 2)]
)
def test_accuracy_normalisations(name: str, picks: int) -> None:
    choices = (
        ChoiceScore(-2.0, 1, 2, 2),
        ChoiceScore(-3.0, 2, 10, 10),
        ChoiceScore(-4.0, 3, 9, 36),
    )
    for target in range(3):
        samples = [Sample("1", "in", ("x",), ("a", "b", "c"), target)]
        value = score(metric(name, samples), samples, [Answer(choices=choices)]).value
        assert value == (1.0 if target == picks else 0.0)


def test_accuracy_takes_the_first_of_equals() -> None:
    samples = [Sample("1", "in", ("x",), ("a", "b"), 0)]
    answer = Answer(choices=(ChoiceScore(-1.0, 1, 1, 1), ChoiceScore(-1.0, 1, 1, 1)))
    assert score(metric("accuracy", samples), samples, [answer]).value == 1.0


@pytest.mark.parametrize("name", sorted(METRICS))
def test_unscored_is_not_zero(name: str) -> None:
    condition = "disambig" if "disambiguated" in name else "ambig"
    fields = {"condition": condition, "biased": "", "unknown": "2"}
    choices = [
        Sample(str(i), "in", ("ab"[i % 2],), ("a", "b"), i % 2, f"g{i}", str(i), fields=fields)
        for i in range(3)
    ]
    written = [Sample(str(i), "in", (f"one two three four {i}",)) for i in range(3)]
    likely = [Sample(str(i), "in", ("x y",), ("x y",), 0) for i in range(3)]
    for mode, samples in (
        (Mode.CHOICE, choices),
        (Mode.GENERATE, written),
        (Mode.LIKELIHOOD, likely),
    ):
        try:
            (ours,) = build_metrics([name], mode, MetricOptions(), samples)
            break
        except InputError:
            continue
    right = [
        Answer(text=s.references[0] if s.target is None else s.choices[s.target]) for s in samples
    ]
    scores = score(ours, samples, [*right[:2], None])
    assert scores.num_scored == 2
    assert scores.value == pytest.approx(ours.maximum)
    assert math.isnan(score(ours, samples, [None, None, None]).value)


@pytest.mark.parametrize(
    ("name", "mode", "options", "message"),
    [
        ("rougel", Mode.GENERATE, {}, "unknown metric 'rougel'; did you mean 'rougeL'?"),
        ("accuracy", Mode.GENERATE, {}, "'accuracy' needs mode 'choice', the task has 'generate'"),
        ("bleu", Mode.GENERATE, {"tokenize": "13b"}, "unknown tokenizer '13b'; did you mean '13a'"),
    ],
)
def test_wrong_metrics(name: str, mode: Mode, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        build_metrics([name], mode, MetricOptions(**options), samples_with(1))
    assert message in str(error.value)
