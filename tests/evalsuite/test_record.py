"""The answer log: keys, torn and damaged lines, one run at a time, a full disk."""

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from evalsuite.errors import EvalError, InputError
from evalsuite.record import AnswerLog, request_key, write_text
from evalsuite.types import Answer, ChoiceScore, Request

MODEL = {"base_fingerprint": "f", "quantization": "nf4"}
REQUEST = Request("a@1", "hello", False, 8, ("\n",))
ANSWER = Answer("bonjour é\u2028", (ChoiceScore(-1.5, 1, 2, 3),), "eos", 5, 6)


def test_answers_come_back_equal(tmp_path: Path) -> None:
    with AnswerLog(tmp_path) as log:
        log.append("k", REQUEST, ANSWER)
    with AnswerLog(tmp_path) as log:
        assert len(log) == 1
        assert log.get("k") == ANSWER
        assert log.get("other") is None


@pytest.mark.parametrize("name", [field.name for field in fields(Request)])
def test_key_covers_every_field_of_the_request(name: str) -> None:
    changes: dict[str, Any] = {
        "adapter": "a@2",
        "text": "hello!",
        "raw": True,
        "max_tokens": 9,
        "stop": (),
        "choices": ("x", "y"),
        "contexts": ("hello", "hi"),
        "unconditional": "Answer:",
    }
    changed = replace(REQUEST, **{name: changes[name]})
    assert request_key(changed, MODEL) != request_key(REQUEST, MODEL)


def test_key_covers_the_model() -> None:
    assert request_key(REQUEST, {**MODEL, "quantization": "int8"}) != request_key(REQUEST, MODEL)
    assert request_key(REQUEST, dict(reversed(MODEL.items()))) == request_key(REQUEST, MODEL)


def test_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    with AnswerLog(tmp_path) as log:
        log.append("k", REQUEST, ANSWER)
        path = log.path
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    with AnswerLog(tmp_path) as log:
        assert path.read_bytes() == whole
        log.append("l", REQUEST, ANSWER)
    with AnswerLog(tmp_path) as log:
        assert len(log) == 2


def test_damaged_line_is_named(tmp_path: Path) -> None:
    with AnswerLog(tmp_path) as log:
        log.append("k", REQUEST, ANSWER)
        path = log.path
    path.write_bytes(path.read_bytes() + b"{}\n" + path.read_bytes())
    with pytest.raises(InputError, match=r"log.jsonl:2: damaged line"):
        AnswerLog(tmp_path)


def test_two_runs_cannot_share_a_directory(tmp_path: Path) -> None:
    with AnswerLog(tmp_path), pytest.raises(InputError, match="another run is writing here"):
        AnswerLog(tmp_path)
    with AnswerLog(tmp_path):
        pass


def test_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--out .*file"):
        AnswerLog(tmp_path / "file")


def test_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write
    with AnswerLog(tmp_path) as log:
        log.append("k", REQUEST, ANSWER)
        with monkeypatch.context() as patch:
            patch.setattr("os.write", lambda fd, data: real_write(fd, data[:20]))
            with pytest.raises(EvalError, match="No space left on device; 1 answers are kept"):
                log.append("l", REQUEST, ANSWER)
        log.append("m", REQUEST, ANSWER)
    with AnswerLog(tmp_path) as log:
        assert (log.get("k"), log.get("l"), log.get("m")) == (ANSWER, None, ANSWER)


def test_write_text_replaces_whole_files_only(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")

    def chunks() -> Any:
        yield "new"
        raise OSError(28, "No space left on device")

    with pytest.raises(EvalError, match="No space left on device"):
        write_text(path, chunks())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
