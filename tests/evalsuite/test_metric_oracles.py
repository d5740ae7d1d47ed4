"""Metrics of choices, labels, numbers and likelihoods against plain readings of their definitions.

To 1e-9. `oracles/labels.json` holds what scikit-learn says; `oracles/label_values.py` wrote it.
"""

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from evalsuite.errors import InputError
from evalsuite.metrics import score
from evalsuite.types import Answer, ChoiceScore, Sample
from tests.evalsuite.scoring import SEEDS, WORDS, close, metric, value

LABELS = json.loads((Path(__file__).parent / "oracles" / "labels.json").read_text())["cases"]


def labelled(case: dict[str, Any]) -> tuple[list[Sample], list[Answer]]:
    names = tuple(f"label{i}" for i in range(case["num_labels"]))
    samples = [Sample(str(i), "in", (names[t],), names, t) for i, t in enumerate(case["true"])]
    return samples, [Answer(text=names[t]) for t in case["taken"]]


@pytest.mark.parametrize(
    "case", LABELS, ids=lambda case: f"{case['num_labels']}x{len(case['true'])}"
)
@pytest.mark.parametrize("name", ["mcc", "f1", "f1_macro", "label_accuracy"])
def test_labels_as_scikit_learn(case: dict[str, Any], name: str) -> None:
    samples, answers = labelled(case)
    assert value(name, samples, answers) == close(case[name])


@pytest.mark.parametrize("name", ["mcc", "f1_macro", "label_accuracy"])
def test_written_labels_are_the_same(name: str) -> None:
    for case in LABELS:
        samples, answers = labelled(case)
        written = [Sample(s.id, "in", s.references) for s in samples]
        if set(case["taken"]) <= set(case["true"]):
            assert value(name, written, answers) == close(case[name])


def test_text_that_is_no_label_is_wrong() -> None:
    samples = [Sample(str(i), "in", (label,)) for i, label in enumerate("aabb")]
    answers = [Answer(text=text) for text in ("a", "what", "b", "b")]
    assert value("label_accuracy", samples, answers) == 0.75
    assert value("f1_macro", samples, answers) == close((2 / 3 + 1) / 2)


def test_free_text_is_no_label() -> None:
    samples = [Sample(str(i), "in", (f"text {i}",)) for i in range(201)]
    with pytest.raises(InputError, match="201 different references, at most 200 can be labels"):
        metric("mcc", samples)


@pytest.mark.parametrize("seed", SEEDS)
def test_correlations_as_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    golds = rng.integers(0, 26, 80) / 5
    answered = np.clip(golds + rng.integers(-9, 10, 80) / 5, 0, 5).round(1)
    samples = [Sample(str(i), "in", (f"{gold:.1f}",)) for i, gold in enumerate(golds)]
    answers = [Answer(text=f"about {number:.1f} I think") for number in answered]
    for options in ({"number_step": 0.2}, {}):
        pearson = value("pearson", samples, answers, **options)
        assert pearson == close(stats.pearsonr(answered, golds).statistic)
    # Held at the references' own values where no step is given; 80 draws cover nearly all 26.
    expected = stats.spearmanr(answered, golds).statistic
    assert value("spearman", samples, answers, number_step=0.2) == close(expected)
    levels = np.unique(golds)
    held = levels[np.abs(answered[:, None] - levels).argmin(axis=1)]
    assert value("spearman", samples, answers) == close(stats.spearmanr(held, golds).statistic)


def test_resampled_correlations_are_exact() -> None:
    """The property the sums are for: any resample has scipy's value, ranks included."""
    rng = np.random.default_rng(0)
    golds, answered = rng.integers(0, 26, (2, 50)) / 5
    samples = [Sample(str(i), "in", (f"{gold:.1f}",)) for i, gold in enumerate(golds)]
    answers = [Answer(text=f"{number:.1f}") for number in answered]
    draws = rng.integers(0, 50, (20, 50))
    for name, library in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        ours = metric(name, samples, number_step=0.2)
        rows = score(ours, samples, answers).statistics
        values = ours.aggregate(rows[draws].sum(axis=1))
        expected = [library(answered[draw], golds[draw]).statistic for draw in draws]
        assert values == pytest.approx(expected, abs=1e-9)


def test_answers_without_number() -> None:
    samples = [Sample(str(i), "in", (str(i),)) for i in range(4)]
    answers = [Answer(text=text) for text in ("0", "none", "2", "3.4")]
    numbers = [0, -1, 2, 3.4]
    assert value("parse_rate", samples, answers) == 0.75
    assert value("pearson", samples, answers) == close(stats.pearsonr(numbers, range(4)).statistic)
    expected = stats.spearmanr([0, -1, 2, 3], range(4)).statistic
    assert value("spearman", samples, answers) == close(expected)
    constant = [Answer(text="1")] * 4
    assert value("pearson", samples, constant) == value("spearman", samples, constant) == 0


def test_too_many_levels() -> None:
    samples = [Sample(str(i), "in", (f"{i}.5",)) for i in range(400)]
    with pytest.raises(InputError, match=r"400 levels of answers are too many; raise options.num"):
        metric("spearman", samples)


def scored(seed: int, size: int = 30) -> tuple[list[Sample], list[Answer], Any]:
    """Random log-likelihoods [N, C, 4]: of the choice, alone, characters, bytes."""
    rng = np.random.default_rng(seed)
    samples, answers, rows = [], [], []
    for index in range(size):
        count = int(rng.integers(2, 6))
        logprobs, alone = -rng.gamma(3, 4, count), -rng.gamma(3, 4, count)
        chars = rng.integers(1, 30, count)
        sizes = chars + rng.integers(0, 9, count)
        choices = tuple(
            ChoiceScore(*row, unconditional_logprob=u)
            for row, u in zip(
                zip(logprobs, [1] * count, chars, sizes, strict=True), alone, strict=True
            )
        )
        credit = tuple(float(x) for x in rng.integers(0, 2, count))
        samples.append(
            Sample(
                str(index), "in", ("x",), tuple(f"c{i}" for i in range(count)),
                int(rng.integers(count)), group=f"g{index // 3}", category=f"k{index % 4}",
                target_scores=credit, fields={"question": f"q{index // 2}"},
            )
        )  # fmt: skip
        answers.append(Answer(choices=choices))
        rows.append((logprobs, alone, chars, sizes))
    return samples, answers, rows


@pytest.mark.parametrize("seed", SEEDS)
def test_accuracies(seed: int) -> None:
    samples, answers, rows = scored(seed)
    for name, normalised in (
        ("accuracy", [lp for lp, *_ in rows]),
        ("accuracy_per_char", [lp / chars for lp, _, chars, _ in rows]),
        ("accuracy_per_byte", [lp / sizes for lp, _, _, sizes in rows]),
        ("accuracy_unconditional", [lp - alone for lp, alone, *_ in rows]),
    ):
        right = [int(np.argmax(n)) == s.target for n, s in zip(normalised, samples, strict=True)]
        assert value(name, samples, answers) == close(float(np.mean(right)))
    by_category: dict[str, list[bool]] = {}
    for (logprobs, *_), sample in zip(rows, samples, strict=True):
        right_now = int(np.argmax(logprobs)) == sample.target
        by_category.setdefault(sample.category, []).append(right_now)
    expected = float(np.mean([np.mean(found) for found in by_category.values()]))
    assert value("accuracy_macro", samples, answers) == close(expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_probabilities(seed: int) -> None:
    samples, answers, rows = scored(seed)
    briers, masses, credit = [], [], []
    for (logprobs, *_), sample in zip(rows, samples, strict=True):
        shares = [math.exp(x) / sum(math.exp(y) for y in logprobs) for x in logprobs]
        briers.append(sum((p - (i == sample.target)) ** 2 for i, p in enumerate(shares)))
        pairs = list(zip(shares, sample.target_scores, strict=True))
        masses.append(sum(p for p, t in pairs if t))
        credit.append(sample.target_scores[int(np.argmax(logprobs))])
    single = [replace(sample, target_scores=()) for sample in samples]
    assert value("brier", single, answers) == close(float(np.mean(briers)))
    assert value("target_mass", samples, answers) == close(float(np.mean(masses)))
    assert value("target_score", samples, answers) == close(float(np.mean(credit)))


@pytest.mark.parametrize("seed", SEEDS)
def test_items_of_several_samples(seed: int) -> None:
    samples, answers, rows = scored(seed)
    taken = [int(np.argmax(logprobs)) for logprobs, *_ in rows]
    questions: dict[tuple[str, str], list[bool]] = {}
    pairs: dict[str, set[int]] = {}
    for sample, choice in zip(samples, taken, strict=True):
        key = (sample.group, sample.fields["question"])
        questions.setdefault(key, []).append(choice == sample.target)
        pairs.setdefault(sample.group, set()).add(choice)
    exact = float(np.mean([all(found) for found in questions.values()]))
    assert value("question_exact_match", samples, answers) == close(exact)
    parity = float(np.mean([len(found) == 1 for found in pairs.values()]))
    assert value("gender_parity", samples, answers) == close(parity)


def test_an_item_with_an_unscored_sample_is_unscored() -> None:
    choices = ("no", "yes")
    samples = [Sample(str(i), "in", ("yes",), choices, 1, group=f"g{i // 2}") for i in range(4)]
    ours = metric("question_exact_match", samples)
    found = score(ours, samples, [Answer(text="yes"), None, Answer(text="yes"), Answer(text="yes")])
    assert found.statistics.tolist() == [[0, 0], [0, 0], [1, 1], [0, 0]]
    assert found.value == 1
    assert found.groups is not None
    assert found.groups.tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize("seed", SEEDS)
def test_bbq(seed: int) -> None:
    """Parrish et al. 2022, section 5, by counting."""
    rng = random.Random(seed)
    samples, answers = [], []
    for index in range(60):
        condition = rng.choice(("ambig", "disambig"))
        order = rng.sample(range(3), 3)
        fields = {"condition": condition, "biased": str(order[0]), "unknown": str(order[2])}
        target = order[2] if condition == "ambig" else rng.choice(order[:2])
        choices = ("x", "y", "z")
        samples.append(Sample(str(index), "in", ("x",), choices, target, fields=fields))
        answers.append(Answer(text=rng.choice(choices)))
    for name, condition in (("ambiguous", "ambig"), ("disambiguated", "disambig")):
        biased = known = right = count = 0
        for sample, answer in zip(samples, answers, strict=True):
            if sample.fields["condition"] != condition:
                continue
            taken = sample.choices.index(answer.text)
            count += 1
            right += taken == sample.target
            known += str(taken) != sample.fields["unknown"]
            biased += str(taken) == sample.fields["biased"]
        expected = 2 * biased / known - 1
        if condition == "ambig":
            expected *= 1 - right / count
        assert value(f"accuracy_{name}", samples, answers) == close(right / count)
        assert value(f"bias_{name}", samples, answers) == close(expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_likelihoods(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples, answers = [], []
    nats, tokens, sizes, words = 0.0, 0, 0, 0
    for index in range(20):
        text = " ".join(rng.choice(WORDS) for _ in range(int(rng.integers(1, 20))))
        logprob, count = -float(rng.gamma(9, 3)), int(rng.integers(1, 40))
        samples.append(Sample(str(index), "in", (text,), (text,), 0))
        answers.append(Answer(choices=(ChoiceScore(logprob, count, 1, 1),)))
        nats, tokens = nats - logprob, tokens + count
        sizes, words = sizes + len(text.encode()), words + len(text.split())
    assert value("cross_entropy", samples, answers) == close(nats / tokens)
    assert value("perplexity", samples, answers) == close(math.exp(nats / tokens))
    assert value("word_perplexity", samples, answers) == close(math.exp(nats / words))
    assert value("bits_per_byte", samples, answers) == close(nats / math.log(2) / sizes)
