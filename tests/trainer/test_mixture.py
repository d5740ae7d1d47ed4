"""Mixtures: rates against the papers' formulas, what an epoch shows, and a run over three tasks."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.conftest import WriteConfig, WriteRows, make_rows
from tests.trainer.test_train import train
from trainer.config import MixtureConfig
from trainer.examples import Examples, InMemory
from trainer.log import read_log
from trainer.mixture import Mixture, apportion, rates
from trainer.preflight.prepared import BARE
from trainer.tokens import Encoded
from understudy.artifact import verify

ROOT = Path(__file__).resolve().parents[2]


def part(name: str, size: int) -> tuple[str, Examples]:
    return name, InMemory([Encoded((1,), (2,) * (i % 5 + 1), f"{name}:{i}") for i in range(size)])


def test_rates_are_those_of_the_paper() -> None:
    sizes, even = [1000, 200, 8000], [1.0, 1.0, 1.0]
    proportional = rates(sizes, even, MixtureConfig())
    assert proportional == pytest.approx([1000 / 9200, 200 / 9200, 8000 / 9200])
    limited = rates(sizes, even, MixtureConfig(limit=500))
    assert limited == pytest.approx([500 / 1200, 200 / 1200, 500 / 1200])
    assert rates(sizes, even, MixtureConfig(sampling="equal")) == pytest.approx([1 / 3] * 3)
    # r_m ** (1 / T), renormalised: of the rates, as the paper has it, or of the counts.
    scaled = rates(sizes, even, MixtureConfig(sampling="temperature", temperature=4))
    expected = np.array(proportional) ** 0.25
    assert scaled == pytest.approx((expected / expected.sum()).tolist())
    default = rates(sizes, even, MixtureConfig(sampling="temperature"))
    assert default == pytest.approx((np.sqrt(sizes) / np.sqrt(sizes).sum()).tolist())
    one = MixtureConfig(sampling="temperature", temperature=1, limit=500)
    assert rates(sizes, even, one) == pytest.approx(limited)
    assert rates([100, 100], [3.0, 1.0], MixtureConfig()) == pytest.approx([0.75, 0.25])


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=8), st.integers(1, 10_000))
def test_apportioned_counts_sum_up_and_are_near(weights: list[float], total: int) -> None:
    shares = [weight / sum(weights) for weight in weights]
    counts = apportion(shares, total)
    assert sum(counts) == total
    for share, count in zip(shares, counts, strict=True):
        assert abs(count - share * total) < 1


def test_a_proportional_mixture_shows_each_example_once() -> None:
    mixture = Mixture([part("a", 7), part("b", 13)])
    assert sorted(mixture.epoch(0, 3).tolist()) == list(range(20))
    assert [example.where for example in mixture][6:8] == ["a:6", "b:0"]
    assert mixture[7].where == "b:0"
    assert mixture.lengths.tolist() == [example.num_tokens for example in mixture]
    assert [(t.name, t.begin, t.end, t.num_per_epoch) for t in mixture.tasks] == [
        ("a", 0, 7, 7),
        ("b", 7, 20, 13),
    ]
    with pytest.raises(IndexError):
        mixture[20]


@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 5), st.integers(1, 9))
def test_laps_show_examples_equally_often(size: int, count: int, seed: int, epochs: int) -> None:
    mixture = Mixture([part("a", size), part("b", 3)], [count, 2])
    shown = Counter[int]()
    for epoch in range(epochs):
        drawn = mixture.epoch(seed, epoch)
        assert len(drawn) == count + 2 == mixture.num_per_epoch
        assert (drawn == mixture.epoch(seed, epoch)).all()
        shown.update(drawn.tolist())
    for begin, end, per_epoch in ((0, size, count), (size, size + 3, 2)):
        times = [shown[i] for i in range(begin, end)]
        assert sum(times) == per_epoch * epochs
        assert max(times) - min(times) <= 1


def test_other_seeds_and_tasks_draw_otherwise() -> None:
    mixture = Mixture([part("a", 100), part("b", 100)], [10, 10])
    first, second = mixture.epoch(0, 0), mixture.epoch(1, 0)
    assert sorted(first.tolist()) != sorted(second.tolist())
    assert {i for i in first.tolist() if i < 100} != {i - 100 for i in first.tolist() if i >= 100}


@pytest.fixture
def tasks(write_rows: WriteRows) -> list[dict[str, Any]]:
    """Three tasks of 40, 20 and 10 rows in three wordings, the last with files for validation."""
    rows = make_rows(70)
    questions = [{"question": row["input"], "answer": row["completion"]} for row in rows[60:70]]
    held = [{"question": f"held {i}", "answer": "town"} for i in range(4)]
    chats = [
        [
            {"role": "user", "content": row["input"]},
            {"role": "assistant", "content": row["completion"]},
        ]
        for row in rows[40:60]
    ]
    return [
        {"name": "sum", "files": str(write_rows("sum.jsonl", rows[:40]))},
        {
            "name": "talk",
            "files": str(write_rows("talk.jsonl", [{"messages": turns} for turns in chats])),
            "template_name": "chat",
        },
        {
            "name": "ask",
            "files": [str(write_rows("ask.jsonl", questions))],
            "template": "Q: {{ question }}\n",
            "completion_column": "answer",
            "validation": str(write_rows("held.jsonl", held)),
            "weight": 2.0,
        },
    ]


def settings(tasks: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {"train": tasks, "validation": 0.2, "template_name": "summarize", **changes}


def test_a_run_over_three_tasks(
    tasks: list[dict[str, Any]],
    write_config: WriteConfig,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    mixture = {"sampling": "temperature", "limit": 20, "examples_per_epoch": 30}
    tasks[0]["max_examples"] = 25
    config = write_config(data=settings(tasks, mixture=mixture))
    summary = train(config, capsys)
    artifact = Path(summary["artifact"])
    data = json.loads((artifact / "run.json").read_text())["data"]
    sizes = {task["name"]: task["num_train"] for task in data["tasks"]}
    assert sizes["sum"] == 25
    assert sizes["ask"] == 10
    expected = np.sqrt([min(size, 20) for size in sizes.values()]) * [1, 1, 2]
    counts = {task["name"]: task["num_per_epoch"] for task in data["tasks"]}
    assert sum(counts.values()) == 30
    for count, share in zip(counts.values(), expected / expected.sum(), strict=True):
        assert abs(count - share * 30) < 1
    assert data["num_train"] == sum(sizes.values())
    assert data["files"] == ["sum.jsonl", "talk.jsonl", "ask.jsonl", "held.jsonl"]
    assert [entry["task"] for entry in data["wordings"]] == ["sum", "talk", "ask"]
    assert str(tmp_path) not in (artifact / "run.json").read_text()
    # Their wordings differ, so the adapter takes the finished prompt.
    assert verify(artifact).prompt_template == BARE

    records = read_log(tmp_path / "run" / "metrics.jsonl")
    assert records[0] == {"event": "mixture", "step": 0} | {
        f"per_epoch/{name}": count for name, count in counts.items()
    }
    validations = [record for record in records if record["event"] == "validation"]
    for record in validations:
        losses = [record[f"loss/{name}"] for name in sizes]
        assert min(losses) <= record["loss"] <= max(losses)
        assert len(set(losses)) == 3
    assert summary["validation_metrics"].keys() >= {"loss/sum", "loss/talk", "loss/ask"}


def test_tasks_with_one_wording_keep_it(
    tasks: list[dict[str, Any]], write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = Path(tasks[0]["files"]).read_text().splitlines()
    other = Path(tasks[0]["files"]).with_name("other.jsonl")
    other.write_text("\n".join(rows[20:]))
    Path(tasks[0]["files"]).write_text("\n".join(rows[:20]))
    same = [tasks[0], {"name": "more", "files": str(other)}]
    summary = train(write_config(data=settings(same)), capsys)
    template = verify(Path(summary["artifact"])).prompt_template
    assert template is not None
    assert "{{ input }}" in template


def test_the_documented_mixture(
    base: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_rows: WriteRows,
) -> None:
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(name: several\n.*?)^```$", page, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    Path("several.yaml").write_text(block)
    rows = make_rows(60)
    write_rows("notes.jsonl", rows[:20])
    letters = [f'"{row["input"]}","{row["completion"]}"\n' for row in rows[20:40]]
    Path("letters.csv").write_text("letter,summary\n" + "".join(letters))
    Path("reviews").mkdir()
    write_rows("reviews/train.jsonl", rows[40:])
    changes = [f"base={base}", "optimiser.max_steps=2", "num_threads=1", "data.validation=0.2"]
    arguments = [part for change in changes for part in ("--set", change)]
    summary = train(Path("several.yaml"), capsys, *arguments)
    data = json.loads((Path(summary["artifact"]) / "run.json").read_text())["data"]
    assert [task["name"] for task in data["tasks"]] == ["notes", "letters", "reviews"]
    assert data["files"] == ["notes.jsonl", "letters.csv", "reviews[train]"]


BAD: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda data: data["train"].append("x.jsonl"), "key 'data.train': holds tasks and files"),
    (lambda data: data["train"][1].update(name="sum"), "'data.train[1].name': 'sum' is another ta"),
    (lambda data: data["train"][0].update(name=" "), "key 'data.train[0].name': is empty"),
    (lambda data: data["train"][0].pop("name"), "key 'data.train[0].name' is missing"),
    (lambda data: data["train"][2].update(wieght=1), "[2].wieght' is not known; did you mean 'wei"),
    (lambda data: data["train"][2].update(weight=0), "[2].weight': input should be greater than 0"),
    (lambda data: data["train"][1].update(max_examples=0), "[1].max_examples': input should be gr"),
    (lambda data: data["train"][1].update(files=[]), "[1].files': tuple should have at least 1"),
    (
        lambda data: data["train"][1].update(files={"dataset": "x", "spilt": "y"}),
        "'data.train[1].files[0].spilt' is not known; did you mean 'split'?",
    ),
    (lambda data: data["train"][0].update(files="no.jsonl"), "no.jsonl: cannot be read: No such"),
    (
        lambda data: data["train"][1].update(template="{{ messages }}"),
        "keys 'data.train[1].template' and 'data.train[1].template_name': give one",
    ),
    (
        lambda data: data["train"][2].update(template="{{ qestion }}"),
        "task 'ask': ",
    ),
    (lambda data: data["train"][2].pop("template"), "task 'ask': "),
    (lambda data: data.update(validation="x.jsonl"), "key 'data.validation': is for a run without"),
    (lambda data: data.update(test="x.jsonl"), "key 'data.test': is for a run without tasks"),
    (lambda data: data.update(train=data["train"][0]["files"]), "has no tasks to mix"),
    (
        lambda data: data["mixture"].update(temperature=3.0),
        "key 'data.mixture.temperature': sampling is 'proportional'",
    ),
    (
        lambda data: data.update(mixture={"sampling": "equal", "limit": 3}),
        "key 'data.mixture.limit': equal sampling counts no examples",
    ),
    (lambda data: data["mixture"].update(sampling="even"), "'proportional', 'equal' or 'temperatu"),
    (
        lambda data: data["mixture"].update(examples_per_epoch=1),
        "at its rate an epoch would show none of its examples",
    ),
    (lambda data: data["train"][0].update(validation=0.99999), "task 'sum': data.validation 0.99"),
]


@pytest.mark.parametrize(("change", "expected"), BAD, ids=[expected for _, expected in BAD])
def test_bad_tasks(
    change: Callable[[dict[str, Any]], Any],
    expected: str,
    tasks: list[dict[str, Any]],
    write_config: WriteConfig,
    refused: Callable[..., str],
) -> None:
    data = settings(tasks, mixture={})
    change(data)
    assert expected in refused(write_config(data=data))
