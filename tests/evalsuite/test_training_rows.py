"""Training rows drawn by index: the same as from a tuple of them."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from evalsuite.prompts import draw_shots
from evalsuite.registry import load_tasks
from evalsuite.spool import SampleSpool
from evalsuite.task import Task
from evalsuite.training import InputHashes, TrainingRows
from evalsuite.types import Sample

CHOICES = ("good", "bad", "so-so")


def rows(num: int) -> list[Sample]:
    rng = random.Random(7)
    return [
        Sample(
            str(i),
            f"input {i}",
            (f"text {rng.randrange(num)}",),
            choices=CHOICES,
            target=rng.randrange(3),
            category=f"c{rng.randrange(4)}",
        )
        for i in range(num)
    ]


def plain_draw(rows: Sequence[Sample], num: int, seed: str) -> tuple[Sample, ...]:
    """Balanced shots, written over the rows themselves."""
    rng = random.Random(seed)
    groups: dict[int | None, list[Sample]] = defaultdict(list)
    for sample in rng.sample(rows, len(rows)):
        groups[sample.target].append(sample)
    order = rng.sample(sorted(groups, key=str), len(groups))
    drawn: list[Sample] = []
    while len(drawn) < num:
        drawn += [groups[target].pop() for target in order if groups[target]]
    drawn = drawn[:num]
    rng.shuffle(drawn)
    return tuple(drawn)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    (tmp_path / "t.jsonl").write_text('{"input": "a", "completion": "good"}\n')
    (tmp_path / "t.yaml").write_text(
        'name: t\nmode: choice\ndata: t.jsonl\ntemplate: "{{ input }}"\n'
        "choices: [good, bad, so-so]\nmetrics: [accuracy]\n"
    )
    (found,) = load_tasks([str(tmp_path / "t.yaml")], None)
    return found


@pytest.mark.parametrize("in_memory", [3, 1000])
@pytest.mark.parametrize("num_shots", [1, 5, 40])
def test_shots_by_index_are_those_of_the_rows(task: Task, in_memory: int, num_shots: int) -> None:
    given = rows(60)
    task = replace(
        task, train=TrainingRows(given, SampleSpool(in_memory)), train_sha256="of the rows"
    )
    assert draw_shots(task, num_shots, seed=3) == plain_draw(given, num_shots, "3:t")
    own = replace(task.spec.shots, same_category=True)
    task = replace(task, spec=replace(task.spec, shots=own))
    of_category = [row for row in given if row.category == "c2"]
    wanted = min(num_shots, len(of_category))
    assert draw_shots(task, wanted, 3, "c2") == plain_draw(
        of_category, wanted, "3:t of category 'c2'"
    )


def test_the_most_frequent_come_without_reading_the_rows() -> None:
    given = rows(300)
    train = TrainingRows(given, SampleSpool(5))
    written = [replace(row, choices=(), target=None) for row in given]
    texts = TrainingRows(written, SampleSpool(5))
    assert train.most_common_target() == Counter(row.target for row in given).most_common(1)[0][0]
    # Counter keeps the first of equals, as this does.
    assert texts.most_common_completion() == Counter(r.right for r in written).most_common(1)[0][0]
    assert list(train) == given
    assert [texts.target(i) for i in range(3)] == [None] * 3


def test_inputs_are_known_by_their_hashes() -> None:
    given = rows(500)
    known = InputHashes(given)
    assert all(row.input in known for row in given)
    assert not any(f"{row.input}." in known for row in given)
    assert "" not in InputHashes(())
