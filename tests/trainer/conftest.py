"""A tiny base, rows to learn and a configuration that trains on them in a second."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import trainer.model
from tests.tiny import WORDS, make_base
from trainer.__main__ import main

WriteRows = Callable[[str, Iterable[Any]], Path]
WriteConfig = Callable[..., Path]
Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """On a tiny model more threads are slower, and equal results need equal numbers of them."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("trainer") / "tiny")


def make_rows(num: int) -> list[dict[str, str]]:
    """Distinct rows whose completion is the last two words of the input."""
    words = WORDS.split()
    rows = []
    for i in range(num):
        chosen = [words[(i * step + step) % len(words)] for step in range(1, 4 + i % 5)]
        rows.append({"input": f"{i} {' '.join(chosen)}", "completion": " ".join(chosen[-2:])})
    return rows


@pytest.fixture
def write_rows(tmp_path: Path) -> WriteRows:
    """Writes rows (or raw lines) into a JSONL file."""

    def write(name: str, rows: Iterable[Any]) -> Path:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def write_config(tmp_path: Path, base: Path, write_rows: WriteRows) -> WriteConfig:
    """Writes a configuration that works, with top-level keys replaced by the arguments."""

    def write(**changes: Any) -> Path:
        train = tmp_path / "train.jsonl"
        if not train.exists():
            write_rows("train.jsonl", make_rows(40))
        config = {
            "name": "first",
            "base": str(base),
            "data": {"train": str(train), "validation": 0.2, "template_name": "summarize"},
            "method": {"type": "lora", "rank": 4},
            "optimiser": {"learning_rate": 5e-3, "batch_size": 4, "max_steps": 6},
            "output": {"dir": str(tmp_path / "run"), "store": str(tmp_path / "store")},
            "num_threads": 1,
        }
        config.update(changes)
        path = tmp_path / "train.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    return write


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a base's weights is a failure."""

    def load_base(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(trainer.model, "load_base", load_base)


@pytest.fixture
def refused(no_weights: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `train` and returns its one line of complaint, before the weights load."""

    def run(config: Path, *arguments: str) -> str:
        assert main(["train", str(config), *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = captured.err.splitlines()
        assert len(lines) == 1, captured.err
        return lines[0]

    return run
