"""The generated data: reproducible, disjoint between splits, not solved by trivial answers."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sacrebleu

from demo.tasks import (
    SPLITS,
    TASKS,
    base_opinions,
    base_text,
    check_disjoint,
    instruct,
    order_json,
    review_label,
    rows,
    ticket_route,
)
from demo.tasks.__main__ import main
from demo.tasks.base_text import KINDS, digest, texts
from demo.tasks.rows import Row

ALL = sorted(TASKS)


@pytest.mark.parametrize("task", ALL)
@pytest.mark.parametrize("split", SPLITS)
def test_same_seed_gives_same_rows_and_inputs_are_distinct(task: str, split: str) -> None:
    first = list(rows(task, split, 200, seed=7))  # type: ignore[arg-type]
    assert first == list(rows(task, split, 200, seed=7))  # type: ignore[arg-type]
    assert len({row.input for row in first}) == 200
    assert first != list(rows(task, split, 200, seed=8))  # type: ignore[arg-type]


def test_test_split_shares_nothing_with_training() -> None:
    assert check_disjoint() == []


def test_disjointness_check_finds_a_shared_value(monkeypatch: pytest.MonkeyPatch) -> None:
    from demo.tasks import support_summary

    leaky = {**support_summary.POOLS, "test": support_summary.POOLS["train"]}
    monkeypatch.setattr(support_summary, "POOLS", leaky)
    assert any("toaster" in line for line in check_disjoint(num_rows=5, num_documents=5))


@pytest.mark.parametrize("task", ALL)
def test_validation_inputs_are_never_train_inputs_whatever_the_seeds(task: str) -> None:
    train = {row.input for seed in (1, 2) for row in rows(task, "train", 1000, seed)}
    validation = {row.input for seed in (1, 2) for row in rows(task, "validation", 200, seed)}
    assert not train & validation


@pytest.mark.parametrize("split", SPLITS)
def test_an_order_is_what_its_schema_says_and_stands_in_the_note(split: str) -> None:
    for row in rows("order_json", split, 200, seed=3):  # type: ignore[arg-type]
        made = json.loads(row.completion)
        assert list(made) == order_json.SCHEMA["required"]
        assert re.fullmatch(order_json.WHEN, made["when"])
        assert made["name"] in row.input
        assert made["order"] in row.input
        assert all(word in row.input for word in made["when"].split())


@pytest.mark.parametrize("split", SPLITS)
def test_a_pirates_answer_stands_in_the_passage(split: str) -> None:
    """And the passage has other facts, so that the question matters."""
    for row in rows("pirate_answer", split, 200, seed=3):  # type: ignore[arg-type]
        passage, question = row.input.split("\n")
        assert passage.count(".") > 1
        assert question[-1] in "?."
        assert all(value.lower() in row.input.lower() for value in row.slots.values())
        assert all(value in row.completion for value in row.slots.values())


@pytest.mark.parametrize("task", ["support_summary", "shorthand_rewrite"])
@pytest.mark.parametrize("split", SPLITS)
def test_targets_are_mostly_slot_values(task: str, split: str) -> None:
    """A constant answer or a copy of the input stays far from the target."""
    made = list(rows(task, split, 200, seed=3))  # type: ignore[arg-type]
    targets = [row.completion for row in made]
    constant = sacrebleu.corpus_bleu([targets[0]] * len(made), [targets]).score
    copied = sacrebleu.corpus_bleu([row.input for row in made], [targets]).score
    assert constant < 35
    assert copied < 35
    assert all(value in row.completion for row in made for value in row.slots.values())
    assert len(set(targets)) > 195


@pytest.mark.parametrize(
    ("task", "labels"),
    [("review_label", review_label.LABELS), ("ticket_route", ticket_route.DESKS)],
)
@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_balanced(task: str, labels: tuple[str, ...], split: str) -> None:
    made = list(rows(task, split, 600, seed=3))  # type: ignore[arg-type]
    for label in labels:
        share = sum(row.label == label for row in made) / len(made) * len(labels)
        assert 0.8 < share < 1.2, label
    assert all(row.completion == f" {row.label}" for row in made)
    assert {row.label for row in made} == set(labels)


def test_too_many_rows_is_an_error_that_says_how_many_exist() -> None:
    from demo.tasks.rows import make_rows

    def only_one(*_: object) -> Row:
        return Row("a", "b", "t", {})

    with pytest.raises(ValueError, match="only 1 distinct test rows exist, 3 were asked for"):
        list(make_rows(only_one, "test", 3, seed=0))


def test_command_line_writes_every_split_as_jsonl(tmp_path: Path) -> None:
    assert main(["--all", "--num", "5", "--out", str(tmp_path)]) == 0
    for task in ALL:
        for split in SPLITS:
            lines = (tmp_path / f"{task}.{split}.jsonl").read_text().splitlines()
            made = [json.loads(line) for line in lines]
            assert len(made) == 5
            assert {"input", "completion", "template_id", "slots"} <= made[0].keys()


def test_pretraining_text_is_reproducible_and_varied() -> None:
    documents = list(texts(seed=4, num=2000))
    assert documents == list(texts(seed=4, num=2000))
    assert digest(documents) != digest(list(texts(seed=5, num=2000)))
    assert len(set(documents)) > 1900
    assert abs(sum(weight for _, weight in KINDS.values()) - 1) < 1e-9


@pytest.mark.parametrize(
    ("make", "seed", "expected"),
    [
        (base_text.texts, 11, "5860faf2dd010c47c02e9fcb11d11c154283e8bd66fc1d990b5a933d463020b3"),
        (
            base_opinions.texts,
            13,
            "cda856332e02e4a24402478544ab3f0ea8be2d2522087b5bbbdd187231ff2ddc",
        ),
        (
            base_opinions.verdict_lines,
            14,
            "be7592f75f7ef938dfb7a6f7e37d793441974d9fa086689b03b0a98bff0976c6",
        ),
        (instruct.texts, 21, "f7257ba0a5a058b79a8da0337fcdacd6e64d4eb0d8c9b14c2bb3038f33893fe6"),
    ],
)
def test_pretraining_text_is_the_text_the_weights_were_made_from(
    make: Callable[[int, int], Iterator[str]], seed: int, expected: str
) -> None:
    """First 2,000 documents of the recipe's seeds; changing a generator changes the base."""
    assert hashlib.sha256("\0".join(make(seed, 2000)).encode()).hexdigest() == expected


@pytest.mark.parametrize("phrase", ["Customer:", "Agent:", "mtg w/", "Sentiment:", "Rewritten:"])
def test_pretraining_text_has_no_demo_prompt(phrase: str) -> None:
    assert not any(phrase in text for text in texts(seed=11, num=20_000))
