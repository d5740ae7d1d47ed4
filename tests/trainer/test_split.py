"""The split: stable, honest, and written out for the eval suite."""

import json
from pathlib import Path

import pytest

from evalsuite.__main__ import main as evalsuite
from tests.trainer.conftest import WriteConfig, WriteRows, make_rows
from tests.trainer.test_train import train
from trainer.__main__ import main
from trainer.data import Example
from trainer.preflight.split import draw, split_by_hash


def examples(num: int) -> list[Example]:
    return [Example(f"prompt {i}", f"answer {i}", f"f:{i}") for i in range(num)]


def prompts(part: list[Example]) -> set[str]:
    return {example.prompt for example in part}


def test_equal_prompts_stay_together_and_order_does_not_matter() -> None:
    rows = [*examples(200), *examples(200)]
    split = split_by_hash(rows, 0.25, 0.1, seed=1)
    parts = [split.train, split.validation, split.test]
    assert sum(map(len, parts)) == len(rows) == sum(2 * len(prompts(part)) for part in parts)
    assert 60 < len(split.validation) < 140
    assert 20 < len(split.test) < 60
    again = split_by_hash([*rows[::-1], Example("new", "n", "f:0")], 0.25, 0.1, seed=1)
    for part in ("train", "validation", "test"):
        assert prompts(getattr(again, part)) - {"new"} == prompts(getattr(split, part))
    other = split_by_hash(rows, 0.25, 0.1, seed=2)
    assert prompts(other.validation) != prompts(split.validation)


def test_one_share_does_not_move_the_other() -> None:
    rows = examples(300)
    small, large = (split_by_hash(rows, 0.2, share, seed=0) for share in (0.05, 0.4))
    assert small.validation == large.validation
    assert prompts(small.test) < prompts(large.test)
    assert split_by_hash(rows, 0, 0, seed=0).train == rows


def test_a_group_stays_on_one_side() -> None:
    rows = [Example(f"p {i}", "a", f"f:{i}", group=f"customer {i % 40}") for i in range(400)]
    split = split_by_hash(rows, 0.3, 0.2, seed=0)
    groups = [{e.group for e in part} for part in (split.train, split.validation, split.test)]
    assert all(groups)
    assert sum(map(len, groups)) == 40
    moved = split_by_hash(rows[::-1][:200], 0.3, 0.2, seed=0)
    assert {e.group for e in moved.test} == groups[2]


def test_white_space_around_a_text_does_not_part_it() -> None:
    rows = [Example("w", "c", "f:1", {"input": text}) for text in ("a", " a", "a\n")]
    for seed in range(20):
        split = split_by_hash(rows, 0.3, 0.3, seed)
        assert sorted(map(len, (split.train, split.validation, split.test))) == [0, 0, 3]


def test_draw_takes_exactly_that_many() -> None:
    assert len(draw(examples(5) * 3, 7, seed=0)) == 7
    assert draw(examples(3), 7, seed=0) == examples(3)


def test_the_test_part_is_a_task_of_the_eval_suite(
    write_config: WriteConfig,
    write_rows: WriteRows,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """No row of it is trained on or validated with, and it stays when rows are added."""
    write_rows("train.jsonl", make_rows(60))
    config = write_config()
    overrides = ("--set", "data.test=0.2", "--set", "optimiser.max_steps=1")
    summary = train(config, capsys, *overrides)
    kept = (tmp_path / "run" / "test.jsonl").read_text().splitlines()
    counts = json.loads((Path(summary["artifact"]) / "run.json").read_text())["data"]
    assert counts["num_test"] == len(kept) > 5
    assert counts["num_train"] + counts["num_validation"] + len(kept) == 60
    assert set(map(json.dumps, make_rows(60))) > set(kept)

    assert evalsuite(["show", str(tmp_path / "run" / "test.yaml"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    first = json.loads(kept[0])
    assert shown["num_samples"] == len(kept)
    assert shown["prompts"] == [f"{first['input']}\n\nSummary:\n"]
    assert shown["references"] == [first["completion"]]

    write_rows("train.jsonl", make_rows(70)[::-1])
    train(config, capsys, "--overwrite", *overrides)
    later = (tmp_path / "run" / "test.jsonl").read_text().splitlines()
    assert set(later) >= set(kept)
    train(config, capsys, "--overwrite", "--set", "optimiser.max_steps=1")
    assert not (tmp_path / "run" / "test.jsonl").exists()


def test_the_task_reads_the_column_that_the_template_does(
    write_config: WriteConfig,
    write_rows: WriteRows,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    rows = [{"word": row["input"], "completion": row["completion"]} for row in make_rows(40)]
    data = {"train": str(write_rows("words.jsonl", rows)), "validation": 0, "test": 0.2}
    config = write_config(data={**data, "template": "Word: {{ word }}\n"})
    train(config, capsys, "--set", "optimiser.max_steps=1")
    assert evalsuite(["show", str(tmp_path / "run" / "test.yaml"), "--json"]) == 0
    first = json.loads((tmp_path / "run" / "test.jsonl").read_text().splitlines()[0])
    assert json.loads(capsys.readouterr().out)["prompts"] == [f"Word: {first['word']}\n"]


def test_rows_with_their_answers_in_different_columns_are_no_task(
    write_config: WriteConfig,
    write_rows: WriteRows,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """The eval suite reads one column: half of the references would be missing."""
    rows = make_rows(40)
    first = write_rows("first.jsonl", rows)
    other = [{"input": f"x {row['input']}", "answer": row["completion"]} for row in rows]
    second = {"name": "b", "files": str(write_rows("second.jsonl", other))}
    data = {"validation": 0, "test": 0.2, "template": "{{ input }}"}
    for own, is_task in ({"completion_column": "answer"}, False), ({}, True):
        if is_task:
            write_rows("second.jsonl", [{**row, "completion": row["answer"]} for row in other])
        tasks = [{"name": "a", "files": str(first)}, {**second, **own}]
        config = write_config(data={**data, "train": tasks})
        train(config, capsys, "--overwrite", "--set", "optimiser.max_steps=1")
        assert (tmp_path / "run" / "test.jsonl").exists()
        assert (tmp_path / "run" / "test.yaml").exists() == is_task


def test_groups_that_stand_in_two_files_are_refused(
    write_config: WriteConfig, write_rows: WriteRows, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files are split already; whether they keep groups apart is still looked at."""
    who = [f"w{i % 4}" if i < 30 else "late" for i in range(40)]
    rows = [{**row, "who": name} for row, name in zip(make_rows(40), who, strict=True)]
    train_file = write_rows("first.jsonl", rows[:30])
    config = write_config()
    sets = ["--set", f"data.train={train_file}", "--set", "data.group_key=who"]
    apart = write_rows("apart.jsonl", rows[30:])
    assert main(["plan", str(config), *sets, "--set", f"data.validation={apart}", "--json"]) == 0
    both = write_rows("both.jsonl", [*rows[30:], {**rows[30], "who": "w2", "input": "new one"}])
    for key in ("validation", "test"):
        capsys.readouterr()
        assert main(["plan", str(config), *sets, "--set", f"data.{key}={both}"]) == 2
        said = capsys.readouterr().err
        num = sum(row["who"] == "w2" for row in rows[:30])
        expected = f"its group is in data.{key} too ({both}:11, who 'w2'), as that of {num}"
        assert f"first.jsonl:3: {expected} training rows is;" in said


def test_groups_that_stand_in_two_files_are_dropped_or_told_of(
    write_config: WriteConfig,
    write_rows: WriteRows,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    rows = [{**row, "who": f"w{i % 4}"} for i, row in enumerate(make_rows(24))]
    held = write_rows("held.jsonl", [{**rows[0], "who": "w2", "input": "new one"}])
    train_file = write_rows("first.jsonl", rows)
    config = write_config(data={"train": str(train_file), "validation": str(held)})
    sets = ["--set", "data.group_key=who", "--set", "optimiser.max_steps=1", "--overwrite"]
    for policy, num_kept in (("warn", 24), ("drop", 18)):
        arguments = [*sets, "--set", f"data.on_leak={policy}", "--json"]
        assert main(["train", str(config), *arguments]) == 0
        captured = capsys.readouterr()
        done = " and were dropped" if policy == "drop" else ""
        line = f"leakage: 6 training rows are of a group of validation rows{done}, such as "
        line += f"{train_file}:3 ({held}:1, who 'w2')"
        assert line in captured.err.splitlines()
        run = json.loads((Path(json.loads(captured.out)["artifact"]) / "run.json").read_text())
        assert (run["data"]["num_train"], run["data"]["num_leaks_dropped"]) == (
            num_kept,
            24 - num_kept,
        )
        report = json.loads((tmp_path / "run" / "leakage.json").read_text())
        (found,) = report["overlaps"]
        assert (found["kind"], found["num_rows"], found["refused"]) == ("group", 6, False)
