"""Metrics of text against plain readings of their definitions and the libraries, to 1e-9."""

import math
import random
import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sacrebleu

from evalsuite.errors import InputError
from evalsuite.metrics import score
from evalsuite.types import Answer, Sample
from tests.evalsuite.scoring import SEEDS, WORDS, close, metric, value


def texts(seed: int, num_references: int = 2, size: int = 25) -> tuple[list[Sample], list[Answer]]:
    """Random texts of some lines, and answers that share words with them."""
    rng = random.Random(seed)

    def text(start: str = "") -> str:
        parts = [rng.choice(WORDS) + rng.choice(" \n    ") for _ in range(rng.randint(1, 12))]
        return f"{start} {''.join(parts)}".strip()

    samples, answers = [], []
    for row in range(size):
        common = text()
        references = tuple(text(common) for _ in range(num_references))
        samples.append(Sample(str(row), "in", references))
        answers.append(Answer(text=text(common)))
    return samples, answers


def rouge_tokens(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).split()


def f1(shared: int, answer: int, reference: int) -> float:
    return 2 * shared / (answer + reference) if shared else 0.0


def lcs_places(reference: list[str], answer: list[str]) -> set[int]:
    """Places in the reference of one longest common subsequence."""
    table = np.zeros((len(reference) + 1, len(answer) + 1), dtype=int)
    for i, r in enumerate(reference, 1):
        for j, a in enumerate(answer, 1):
            table[i, j] = (
                table[i - 1, j - 1] + 1 if r == a else max(table[i - 1, j], table[i, j - 1])
            )
    places, i, j = set(), len(reference), len(answer)
    while i and j:
        if reference[i - 1] == answer[j - 1]:
            places.add(i - 1)
            i, j = i - 1, j - 1
        elif table[i, j - 1] > table[i - 1, j]:
            j -= 1
        else:
            i -= 1
    return places


def plain_rouge(name: str, reference: str, answer: str) -> float:
    r, a = rouge_tokens(reference), rouge_tokens(answer)
    if name in ("rouge1", "rouge2"):
        n = int(name[-1])
        grams = [Counter(tuple(x[i : i + n]) for i in range(len(x) - n + 1)) for x in (r, a)]
        return f1((grams[0] & grams[1]).total(), grams[1].total(), grams[0].total())
    if name == "rougeL":
        return f1(len(lcs_places(r, a)), len(a), len(r))
    lines = [[rouge_tokens(line) for line in x.split("\n")] for x in (reference, answer)]
    left_r, left_a = Counter(r), Counter(a)
    shared = 0
    for line in lines[0]:
        union = sorted(set().union(*(lcs_places(line, other) for other in lines[1])))
        for token in (line[place] for place in union):
            if left_r[token] > 0 and left_a[token] > 0:
                left_r[token] -= 1
                left_a[token] -= 1
                shared += 1
    return f1(shared, len(a), len(r))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
def test_rouge(name: str, seed: int) -> None:
    samples, answers = texts(seed)
    expected = [
        max(plain_rouge(name, gold.strip(), answer.text.strip()) for gold in sample.references)
        for sample, answer in zip(samples, answers, strict=True)
    ]
    assert value(name, samples, answers, stemmer=False) == close(float(np.mean(expected)))


def plain_bleu(order: int, samples: Sequence[Sample], answers: Sequence[Answer]) -> float:
    """Corpus BLEU on white space tokens (Papineni et al. 2002), without smoothing."""
    right, count = np.zeros(order), np.zeros(order)
    length, nearest = 0, 0
    for sample, answer in zip(samples, answers, strict=True):
        tokens = answer.text.split()
        references = [reference.split() for reference in sample.references]
        length += len(tokens)
        nearest += min((abs(len(r) - len(tokens)), len(r)) for r in references)[1]
        for n in range(1, order + 1):

            def grams(words: list[str], n: int = n) -> Counter[tuple[str, ...]]:
                return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

            most: Counter[tuple[str, ...]] = Counter()
            for reference in references:
                most |= grams(reference)
            right[n - 1] += (grams(tokens) & most).total()
            count[n - 1] += grams(tokens).total()
    penalty = 1.0 if length > nearest else math.exp(1 - nearest / length)
    return 100 * penalty * math.exp(np.log(right / count).mean())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu(order: int, seed: int) -> None:
    samples, answers = texts(seed)
    ours = metric(f"bleu{order}", samples, tokenize="none")
    found = score(ours, samples, answers).value
    assert found == close(plain_bleu(order, samples, answers))
    library = sacrebleu.BLEU(tokenize="none", max_ngram_order=order)
    streams = list(zip(*(sample.references for sample in samples), strict=True))
    assert found == close(library.corpus_score([a.text for a in answers], streams).score)
    assert ("|order:" in ours.signature) == (order != 4)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("options", [{}, {"ter_normalized": True, "ter_case_sensitive": True}])
def test_ter(seed: int, options: dict[str, bool]) -> None:
    samples, answers = texts(seed)
    library = sacrebleu.TER(
        normalized=options.get("ter_normalized", False),
        case_sensitive=options.get("ter_case_sensitive", False),
    )
    streams = list(zip(*(sample.references for sample in samples), strict=True))
    expected = library.corpus_score([answer.text for answer in answers], streams)
    ours = metric("ter", samples, **options)
    assert score(ours, samples, answers).value == close(expected.score)
    assert ours.signature == f"ter|{library.get_signature()}"
    assert not ours.higher_is_better


def plain_chrf(samples: Sequence[Sample], answers: Sequence[Answer]) -> float:
    """chrF2 over the corpus with one reference (Popović 2015), white space left out."""
    counts = np.zeros((6, 3))
    for sample, answer in zip(samples, answers, strict=True):
        sides = ["".join(text.split()) for text in (answer.text, sample.references[0])]
        for n in range(1, 7):
            grams = [Counter(s[i : i + n] for i in range(len(s) - n + 1)) for s in sides]
            shared = (grams[0] & grams[1]).total()
            counts[n - 1] += [grams[0].total(), grams[1].total(), shared]
    precision, recall = counts[:, 2] / counts[:, 0], counts[:, 2] / counts[:, 1]
    p, r = precision.mean(), recall.mean()
    return float(100 * 5 * p * r / (4 * p + r))


@pytest.mark.parametrize("seed", SEEDS)
def test_chrf(seed: int) -> None:
    samples, answers = texts(seed, num_references=1, size=40)
    found = value("chrf", samples, answers)
    streams = [[sample.references[0] for sample in samples]]
    assert found == close(sacrebleu.CHRF().corpus_score([a.text for a in answers], streams).score)
    assert found == pytest.approx(plain_chrf(samples, answers), abs=1e-6)


def plain_squad(text: str) -> list[str]:
    kept = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


@pytest.mark.parametrize("seed", SEEDS)
def test_squad(seed: int) -> None:
    samples, answers = texts(seed, num_references=3)
    f1s, exact = [], []
    for sample, answer in zip(samples, answers, strict=True):
        text = plain_squad(answer.text)
        best = 0.0
        for reference in map(plain_squad, sample.references):
            shared = sum(min(text.count(word), reference.count(word)) for word in set(text))
            best = max(best, f1(shared, len(text), len(reference)), float(text == reference))
        f1s.append(best)
        exact.append(any(text == plain_squad(reference) for reference in sample.references))
    assert value("token_f1", samples, answers) == close(float(np.mean(f1s)))
    assert value("squad_exact_match", samples, answers) == close(float(np.mean(exact)))


@pytest.mark.parametrize(
    ("reference", "text", "f1_value", "exact"),
    [
        ("unanswerable", "Unanswerable.", 1, 1),
        ("unanswerable", "it is unanswerable", 0, 0),
        ("in 1931", "unanswerable", 0, 0),
        ("the Bridge", "a bridge!", 1, 1),
    ],
)
def test_squad_without_answer(reference: str, text: str, f1_value: int, exact: int) -> None:
    samples, answers = [Sample("1", "in", (reference,))], [Answer(text=text)]
    options = {"no_answer": "unanswerable"}
    assert value("token_f1", samples, answers, **options) == f1_value
    assert value("squad_exact_match", samples, answers, **options) == exact


@pytest.mark.parametrize(
    ("reference", "text", "options", "right"),
    [
        ("1000", "so #### 1,000", {"extract": r"####\s*(\S+)", "numbers": True}, 1),
        ("18", "#### 17\n#### $18.", {"extract": r"####\s*(\S+)", "numbers": True}, 1),
        ("18", "it is 18", {"extract": r"####\s*(\S+)"}, 0),
        ("(B)", "The answer is (B).\n", {"extract": r"answer is (.*?)\.?(?:\n|$)"}, 1),
        ("Yes!", "yes", {"ignore_case": True, "ignore_punctuation": True}, 1),
        ("Yes!", "yes", {"ignore_case": True}, 0),
    ],
)
def test_exact_match(reference: str, text: str, options: dict[str, Any], right: int) -> None:
    samples = [Sample("1", "in", (reference,))]
    assert value("exact_match", samples, [Answer(text=text)], **options) == right


@pytest.mark.parametrize(("extract", "fault"), [("(", "'('"), ("x+", "'x+' has no group")])
def test_bad_patterns(extract: str, fault: str) -> None:
    with pytest.raises(InputError, match=re.escape(fault)):
        metric("exact_match", [Sample("1", "in", ("x",))], extract=extract)


@pytest.mark.parametrize("text", ["1,000 then 2", "about -2.0", "  2."])
def test_last_number(text: str) -> None:
    reference = "-2" if "-" in text else "2"
    samples = [Sample("1", "in", (reference,))]
    assert value("exact_match_last_number", samples, [Answer(text=text)]) == 1
    assert value("exact_match_last_number", samples, [Answer(text="two")]) == 0
