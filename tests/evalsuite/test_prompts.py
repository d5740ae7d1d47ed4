"""Worked examples in the base's prompt, and answers that need no model."""

import json
from collections import Counter
from pathlib import Path

import pytest

from evalsuite.baselines import trivial_answers
from evalsuite.errors import InputError
from evalsuite.metrics import score
from evalsuite.prompts import draw_shots, few_shot_prompt
from evalsuite.registry import load_tasks
from evalsuite.task import Task

GENERATE = (
    'name: x\ndata: test.jsonl\ntrain: train.jsonl\ntemplate: "Q: {{ input }}\\nA:"\n'
    "metrics: [{metric}]\n"
)
CHOICE = (
    'name: x\ndata: test.jsonl\ntrain: train.jsonl\ntemplate: "T: {{ input }}\\nL:"\n'
    'mode: choice\nchoices: [" a", " b", " c"]\nmetrics: [accuracy]\n'
)


def load(
    folder: Path, task: str, test: list[tuple[str, str]], train: list[tuple[str, str]]
) -> Task:
    for name, rows in (("test", test), ("train", train)):
        lines = [json.dumps({"input": i, "completion": c}) + "\n" for i, c in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / "t.yaml").write_text(task)
    return load_tasks([str(folder / "t.yaml")], None)[0]


def generate_task(folder: Path, metric: str, test: list, train: list) -> Task:
    return load(folder, GENERATE.replace("{metric}", metric), test, train)


def test_prompt_is_templates_and_completions_between_blank_lines(tmp_path: Path) -> None:
    task = generate_task(tmp_path, "bleu", [("now", "?")], [("one", " 1"), ("two", " 2")])
    shots = sorted(draw_shots(task, 2, seed=0), key=lambda shot: shot.input)
    prompt = few_shot_prompt(task, shots, task.samples[0])
    assert prompt == "Q: one\nA: 1\n\nQ: two\nA: 2\n\nQ: now\nA:"
    assert few_shot_prompt(task, (), task.samples[0]) == "Q: now\nA:"


def test_a_choices_shot_ends_in_the_choice_verbatim(tmp_path: Path) -> None:
    task = load(tmp_path, CHOICE, [("now", "a")], [("then", "b")])
    (shot,) = draw_shots(task, 1, seed=0)
    assert few_shot_prompt(task, [shot], task.samples[0]) == "T: then\nL: b\n\nT: now\nL:"


@pytest.mark.parametrize("seed", range(5))
def test_shots_are_balanced_over_choices(tmp_path: Path, seed: int) -> None:
    train = [(f"row {i}", "a" if i < 40 else "b" if i < 47 else "c") for i in range(49)]
    task = load(tmp_path, CHOICE, [("now", "a")], train)
    assert Counter(shot.target for shot in draw_shots(task, 6, seed)) == {0: 2, 1: 2, 2: 2}
    counts = Counter(shot.target for shot in draw_shots(task, 4, seed))
    assert sorted(counts.values()) == [1, 1, 2]
    # Class c has two rows; the others fill up.
    assert Counter(shot.target for shot in draw_shots(task, 12, seed))[2] == 2


def test_seed_decides_and_shots_are_distinct(tmp_path: Path) -> None:
    task = generate_task(tmp_path, "bleu", [("now", "?")], [(f"q{i}", f"a{i}") for i in range(50)])
    assert draw_shots(task, 5, seed=1) == draw_shots(task, 5, seed=1)
    assert draw_shots(task, 5, seed=1) != draw_shots(task, 5, seed=2)
    assert len(set(draw_shots(task, 50, seed=1))) == 50


def test_test_inputs_are_never_shots(tmp_path: Path) -> None:
    train = [("now", "leaked"), ("then", "fine")]
    task = generate_task(tmp_path, "bleu", [("now", "?")], train)
    assert [shot.input for shot in draw_shots(task, 1, seed=0)] == ["then"]
    with pytest.raises(InputError, match="--shots 2: task 'x' has only 1 training rows"):
        draw_shots(task, 2, seed=0)


def test_shots_need_a_training_file(tmp_path: Path) -> None:
    task = load(
        tmp_path,
        GENERATE.replace("train: train.jsonl\n", "").replace("{metric}", "bleu"),
        [("now", "?")],
        [],
    )
    assert draw_shots(task, 0, seed=0) == ()
    with pytest.raises(InputError, match=r"names no training file.*use --shots 0"):
        draw_shots(task, 3, seed=0)


def test_trivial_is_the_majority_label(tmp_path: Path) -> None:
    train = [(f"row {i}", "b" if i % 3 else "c") for i in range(30)]
    task = load(tmp_path, CHOICE, [("x", "b"), ("y", "a"), ("z", "b"), ("w", "c")], train)
    trivial = trivial_answers(task, seed=0)
    assert trivial is not None
    assert (trivial.kind, trivial.text) == ("constant", " b")
    assert score(task.metrics[0], task.samples, trivial.answers).value == 0.5


def test_trivial_choice_where_rows_have_different_numbers_of_choices(tmp_path: Path) -> None:
    """The first training row has no third choice, which is right most often."""
    few, many = ["a", "b"], ["a", "b", "c"]
    rows = [{"input": "0", "choices": few, "label": 1}]
    rows += [{"input": str(i), "choices": many, "label": 2} for i in range(1, 6)]
    own = [{**row, "input": f"t{i}"} for i, row in enumerate(rows)]
    for name, content in (("d", own), ("t", rows)):
        text = "".join(json.dumps(row) + "\n" for row in content)
        (tmp_path / f"{name}.jsonl").write_text(text)
    path = tmp_path / "ragged.yaml"
    path.write_text(
        'name: ragged\ndata: d.jsonl\ntrain: t.jsonl\ntemplate: "{{ input }}"\n'
        "mode: choice\nmetrics: [accuracy]\n"
    )
    (task,) = load_tasks([str(path)], None)
    trivial = trivial_answers(task, seed=0)
    assert trivial is not None
    assert trivial.text == "b"
    assert [answer.text for answer in trivial.answers] == ["b", *["c"] * 5]


def test_trivial_is_a_copy_where_copying_scores_better(tmp_path: Path) -> None:
    test = [(f"the quick brown fox number {i}", f"the quick brown fox no {i}") for i in range(9)]
    task = generate_task(tmp_path, "bleu", test, [("in", "completely unlike all of it")])
    trivial = trivial_answers(task, seed=0)
    assert trivial is not None
    assert trivial.kind == "copy"
    assert [answer.text for answer in trivial.answers] == [text for text, _ in test]


def test_trivial_constant_is_the_completion_nearest_to_the_others(tmp_path: Path) -> None:
    train = [(f"q{i}", f"order {i} was sent on monday") for i in range(20)] + [("q", "odd one out")]
    task = generate_task(tmp_path, "rougeL", [("?", "order 99 was sent on monday")], train)
    trivial = trivial_answers(task, seed=0)
    assert trivial is not None
    assert trivial.kind == "constant"
    assert trivial.text.endswith("was sent on monday")
    assert trivial == trivial_answers(task, seed=0)
