"""The answer log: keys, torn and damaged lines, one run at a time, a full disk."""

import hashlib
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from evalsuite.errors import EvalError, InputError
from evalsuite.record import AnswerLog, LogLine, model_key, request_key, write_text
from evalsuite.types import Answer, ChoiceScore, Request

FIELDS = {"base_fingerprint": "f", "quantization": "nf4"}
MODEL = model_key(FIELDS)
REQUEST = Request("a@1", "hello", False, 8, ("\n",))
UNLIKELY = Answer("", (ChoiceScore(float("-inf"), 1, 2, 3),))
ANSWER = Answer("bonjour é\u2028", (ChoiceScore(-1.5, 1, 2, 3),), "eos", 5, 6)


def read(log: AnswerLog, key: str) -> LogLine | None:
    offset = log.find(key)
    return None if offset is None else log.read(offset)


def test_answers_come_back_equal(tmp_path: Path) -> None:
    lines = [
        LogLine("k", REQUEST, ANSWER),
        LogLine("l", REQUEST, UNLIKELY),
        LogLine("m", REQUEST, None, "too long"),
    ]
    with AnswerLog(tmp_path) as log:
        for line in lines:
            offset = log.append(line.key, line.request, line.answer, line.refusal)
            assert log.read(offset) == line
    with AnswerLog(tmp_path) as log:
        assert len(log) == 3
        assert [read(log, line.key) for line in lines] == lines
        assert read(log, "other") is None


def test_a_request_of_text_alone_keeps_the_key_it_had() -> None:
    content = (
        b'{"adapter":"a@1","text":"hello","raw":false,"max_tokens":8,"stop":["\\n"],'
        b'"choices":[],"contexts":[],"unconditional":null}'
    )
    assert request_key(REQUEST, MODEL) == hashlib.sha256(MODEL + content).hexdigest()


@pytest.mark.parametrize("name", [field.name for field in fields(Request)])
def test_key_covers_every_field_of_the_request(name: str) -> None:
    changes: dict[str, Any] = {
        "adapter": "a@2",
        "text": "hello!",
        "text_variables": ("word",),
        "fields": {"tone": "calm"},
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
    other = model_key({**FIELDS, "quantization": "int8"})
    assert request_key(REQUEST, other) != request_key(REQUEST, MODEL)
    assert model_key(dict(reversed(FIELDS.items()))) == MODEL


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


@pytest.mark.parametrize(
    "line",
    [
        b'{"key": "k", "request": {"adapter": "", "text": "a", "raw": true}}',
        b'{"other": "log"}',
        b'"text"',
        b"plain text",
        b"\xff\xfe",
        b'{"key": "k", "answer": {"text": "x"}}',
    ],
)
def test_another_programs_log_is_not_taken_for_ours(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "log.jsonl").write_bytes(line + b"\n")
    with pytest.raises(InputError, match=r"log.jsonl:1: damaged line, or not a log of this suite"):
        AnswerLog(tmp_path)
    assert (tmp_path / "log.jsonl").read_bytes() == line + b"\n"


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
        found = [read(log, key) for key in "klm"]
    assert found == [LogLine("k", REQUEST, ANSWER), None, LogLine("m", REQUEST, ANSWER)]


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
