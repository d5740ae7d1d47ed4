"""Comparing methods: real training, a real server and the real eval suite on a tiny base."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.process import environment
from tests.tiny import make_base
from tests.trainer.conftest import make_rows
from trainer.__main__ import main
from trainer.compare import load_comparison
from trainer.compare.training import train_methods

_TASK = """\
name: ends
version: 1
data: ends.test.jsonl
template: "{{ input }}\\nEnd:"
metrics: [rougeL]
max_tokens: 8
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A comparison of two adapters and a full fine-tune."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    rows = [json.dumps(row) + "\n" for row in make_rows(60)]
    Path("train.jsonl").write_text("".join(rows[:40]))
    Path("ends.test.jsonl").write_text("".join(rows[40:]))
    # Called by what it says, not by its file.
    Path("task2.yaml").write_text(_TASK)
    Path("prose.txt").write_text("the late train left a quiet town before noon\n" * 3)
    content = {
        "name": "end",
        "base": str(make_base(tmp_path / "tiny")),
        "data": {"train": "train.jsonl", "template": "{{ input }}\nEnd:", "validation": 0.2},
        "optimiser": {"batch_size": 8, "max_steps": 3},
        "output": {"dir": "out"},
        "num_threads": 1,
        "compare": {
            "task": "task2.yaml",
            "forgetting": ["text=prose.txt"],
            "data_dir": ".",
            "limit": 8,
            "learning_rate_factor": 10,
            "methods": {
                "lora": {"method": {"rank": 4}},
                "soft": {"method": {"type": "prompt_tuning", "num_virtual_tokens": 4}},
                "full": {},
                # There is nothing of the kind in this base.
                "bitfit": {},
            },
        },
    }
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def _compare(
    config: Path, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[dict[str, Any], str]:
    capsys.readouterr()
    assert main(["compare", str(config), "--json", *arguments]) == 0
    printed = capsys.readouterr()
    result: dict[str, Any] = json.loads(printed.out)
    return result, printed.err


@pytest.mark.timeout(900)
def test_trains_serves_and_scores_and_goes_on(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    said: list[str] = []
    chosen = load_comparison(config, methods=["lora", "bitfit"])
    first, refused = train_methods(chosen, said.append, quiet=True)
    assert first.entry.config.optimiser.learning_rate == pytest.approx(2e-3)
    assert first.done is not None
    assert refused.error is not None
    assert said[-1] == f"2/2 bitfit: {refused.error}"

    whole, err = _compare(config, capsys)
    assert "1/4 lora: trained already" in err
    assert {row["label"] for row in whole["rows"]} == {"lora", "soft", "full"}
    rows = {row["label"]: row for row in whole["rows"]}
    assert rows["lora"]["content_hash"] == first.done.summary["content_hash"]
    assert whole["failed"] == {"bitfit": refused.error}
    assert rows["soft"]["type"] == "prompt_tuning"
    assert rows["soft"]["num_parameters"] == 4 * 64
    assert rows["full"]["size_bytes"] > 50 * rows["soft"]["size_bytes"]
    assert whole["num_samples"] == 8
    assert whole["others"] == {"text": "bits_per_byte"}

    # What the table says is what the eval suite found.
    matrix = json.loads((tmp_path / "out/evaluation/matrix.json").read_text())
    for row in matrix["rows"].values():
        cell = row["cells"]["ends"]
        (found,) = [
            r for r in whole["rows"] if r["score"]["value"] == pytest.approx(cell["value"])
            and r["gain"]["ci_low"] == pytest.approx(cell["ci_low"])
        ][:1]  # fmt: skip
        assert found["gain"]["value"] == pytest.approx(cell["gain"])
        assert row["own_task"] == "ends"
    for row in whole["rows"]:
        score, gain = row["score"], row["gain"]
        assert score["ci_low"] <= score["value"] <= score["ci_high"]
        assert gain["value"] == pytest.approx(score["value"] - whole["base_score"]["value"])
        assert row["forgetting"]["text"]["value"] is not None

    out = tmp_path / "out"
    table = (out / "compare.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in table[2:6]] == [
        "base",
        *(row["label"] for row in whole["rows"]),
    ]
    assert "bitfit was not trained: " in table[-1]
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "compare.html").read_text()
    assert "<svg" in page
    assert not re.search(r'(src|href)="http', page)
    assert json.loads((out / "compare.json").read_text()) == whole

    # Other data: it is trained anew.
    with Path("train.jsonl").open("a") as file:
        file.write(json.dumps({"input": "one more", "completion": "more"}) + "\n")
    said.clear()
    (again,) = train_methods(load_comparison(config, methods=["lora"]), said.append, quiet=True)
    assert said == ["1/1 lora: training"]
    assert again.done is not None
    assert again.done.summary["content_hash"] != first.done.summary["content_hash"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["compare.methods.lorra={}"], "no method 'lorra'; did you mean 'lora'?"),
        (["compare.limits=3"], "'compare.limits' is not known; did you mean 'limit'?"),
        (["compare.limit=0"], "key 'compare.limit'"),
        (["optimiser.learning_rate=1e-3"], "one rate for all would compare rates"),
        (["compare.methods.lora.base=x"], "compare.methods.lora.base: is the same for all"),
        (["compare.methods.lora.method.rang=3"], "key 'method.rang' is not known"),
        (["compare.methods={}"], "name at least one method"),
        (["compare=3"], "key 'compare'"),
        (["output=3"], "key 'output.dir' is missing"),
        (["compare.task=nowhere.yaml"], "key 'compare.task': no file 'nowhere.yaml'"),
        (["compare.task=boolk"], "key 'compare.task': no built-in task 'boolk'; did you mean"),
        (["compare.data_dir=tiny"], "key 'compare.task': tiny/ends.test.jsonl"),
        (["compare.forgetting=[text=none.txt]"], "key 'compare.forgetting': no file or folder"),
        (["compare.forgetting=[task2.yaml]"], "'ends' is the name of compare.task too"),
    ],
)
def test_wrong_input(
    config: Path, capsys: pytest.CaptureFixture[str], changes: list[str], message: str
) -> None:
    capsys.readouterr()
    overrides = [part for change in changes for part in ("--set", change)]
    assert main(["compare", str(config), *overrides]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not Path("out").exists()


def test_a_file_without_a_comparison(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = yaml.safe_load(config.read_text())
    del content["compare"]
    config.write_text(yaml.safe_dump(content))
    capsys.readouterr()
    assert main(["compare", str(config)]) == 2
    assert "key 'compare' is missing" in capsys.readouterr().err


def test_the_recipe_compares_what_the_documentation_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    found = load_comparison(Path("recipes/compare.yaml"))
    assert len(found.entries) >= 8
    assert {entry.config.optimiser.max_steps for entry in found.entries} == {20}
    assert [entry.label for entry in found.entries if entry.trains_base] == ["full"]
    chosen = load_comparison(Path("recipes/compare.yaml"), methods=["dora", "bitfit"])
    assert [entry.adapter for entry in chosen.entries] == ["label-dora", "label-bitfit"]
