"""Data sets by name: the file once fetched is used, and what is missing is said."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from evalsuite.__main__ import main
from evalsuite.registry import load_tasks
from evalsuite.session import absolute

ROW = {"question": "Two and two?", "answer": "4.\n#### 4"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "understudy" / "hub"


def test_what_was_fetched_is_not_fetched_again(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "openai--gsm8k--main--test.jsonl").write_text(json.dumps(ROW) + "\n")
    for name in ("gsm8k=hf:openai/gsm8k:main", "gsm8k=hf:openai/gsm8k:main:test@first:1"):
        (task,) = load_tasks([name], None)
        assert task.samples[0].references == ("4",)
        assert absolute([name]) == (name,)


def test_without_the_library(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert main(["show", "gsm8k=hf:openai/gsm8k:main"]) == 2
    line = capsys.readouterr().err
    assert "needs the package datasets: pip install 'understudy-suite[hub]'; or give a file" in line


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs datasets")
def test_a_data_set_in_a_folder(tmp_path: Path, cache: Path) -> None:
    """The library takes a folder for a repository, so no network is needed."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "test.jsonl").write_text(json.dumps(ROW) + "\n")
    (task,) = load_tasks([f"gsm8k=hf:{folder}"], None)
    assert task.samples[0].input == "Two and two?"
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("name", ["hf:", "hf:a:b:c:d"])
def test_bad_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", f"gsm8k={name}"]) == 2
    assert f"'{name}' is not hf:REPO" in capsys.readouterr().err
