"""Wrong data and held-out files: one clear line and exit code 2, before the weights load."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import Refused, WriteConfig, WriteRows, make_rows
from understudy import fingerprint

HEADER = "".join(fingerprint.lines([])).strip() + "\n"
ITEM = '{"task": "t@1", "data": "d", "id": "1", "texts": [], "ngrams": ["HASH"], "sketch": []}'

ROWS_ERRORS: list[tuple[str, list[Any], str]] = [
    ("not JSON", ['{"input": "a", "completion": "b"}', '{"input": '], ":2: not valid JSON"),
    ("not an object", ["[1, 2]"], ":1: must be an object"),
    ("not a number", ['{"input": NaN, "completion": "b"}'], ":1: not valid JSON: NaN"),
    ("no rows", [], "no rows"),
    ("missing column", [{"text": "a", "completion": "b"}], ":1: column 'input' is missing (there"),
    ("missing completion", [{"input": "a", "answer": "b"}], ":1: column 'completion' is missing"),
    ("empty completion", [{"input": "a", "completion": " \n"}], ":1: the completion is empty"),
    ("null", [{"input": None, "completion": "b"}], ":1: column 'input' must be text, got null"),
    (
        "surrogate",
        ['{"input": "\\ud800", "completion": "b"}'],
        ":1: a text holds half a surrogate",
    ),
    (
        "one row again and again",
        [{"input": "a", "completion": "b"}] * 5,
        ":1: all 5 training rows are this one; there is nothing to tell apart",
    ),
    (
        "the prompt is the answer",
        [{"input": f"text {i}", "completion": f"text {i}"} for i in range(6)],
        ":1: column 'input', which the prompt shows, holds the text to learn in every row",
    ),
    ("list", [{"input": "a", "completion": ["b"]}], ":1: column 'completion' must be text"),
]

CHAT_ERRORS: list[tuple[str, Any, str]] = [
    ("text", "hello", "'messages' must be a list"),
    ("no content", [{"role": "user"}], "messages[0] must have text in role and content"),
    ("user last", [{"role": "user", "content": "a"}], "the last message must be the assistant's"),
    ("empty answer", [{"role": "assistant", "content": ""}], "the completion is empty"),
]


@pytest.mark.parametrize(("rows", "expected"), [e[1:] for e in ROWS_ERRORS])
def test_rows(
    rows: list[Any],
    expected: str,
    write_config: WriteConfig,
    write_rows: WriteRows,
    refused: Callable[..., str],
) -> None:
    path = write_rows("train.jsonl", rows)
    line = refused(write_config(), "--set", "data.validation=0")
    assert expected in line
    assert str(path) in line


@pytest.mark.parametrize(("messages", "expected"), [e[1:] for e in CHAT_ERRORS])
def test_chat_rows(
    messages: Any,
    expected: str,
    write_config: WriteConfig,
    write_rows: WriteRows,
    refused: Callable[..., str],
) -> None:
    good = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = write_rows("train.jsonl", [{"messages": good}, {"messages": messages}])
    line = refused(write_config(), "--set", "data.template_name=chat")
    assert f"{path}:2: " in line
    assert expected in line


def test_not_utf8(write_config: WriteConfig, tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "train.jsonl").write_bytes(b'{"input": "\xff", "completion": "b"}\n')
    assert "train.jsonl:1: not UTF-8 at byte 11" in refused(write_config())


def test_chat_needs_a_template_over_messages(
    write_config: WriteConfig, write_rows: WriteRows, refused: Callable[..., str]
) -> None:
    write_rows("train.jsonl", [{"messages": [{"role": "assistant", "content": "b"}]}])
    assert "must read 'messages' and nothing else; it reads input" in refused(write_config())


def test_leak(
    write_config: WriteConfig, write_rows: WriteRows, refused: Callable[..., str]
) -> None:
    rows = make_rows(10)
    train = write_rows("train.jsonl", rows)
    held = write_rows("held.jsonl", [{**rows[6], "completion": "other"}])
    line = refused(write_config(), "--set", f"data.validation={held}")
    assert f"{held}:1: same prompt as training example {train}:7 (1 such" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "held.jsonl: holds no fingerprints"),
        ("{}", "held.jsonl:1: 'format' is None"),
        (HEADER, "held.jsonl: holds no fingerprints"),
        (HEADER + '{"task": "t@1"}', "held.jsonl:2: no field 'data'"),
        (HEADER + ITEM.replace("HASH", "xyz"), "item 1 has a hash that is not 16 hexadecimal"),
        (
            HEADER.replace('"version": 2', '"version": 1'),
            "held.jsonl:1: 'version' is 1, expected 2",
        ),
    ],
)
def test_fingerprints(
    text: str, expected: str, write_config: WriteConfig, write_rows: WriteRows, refused: Refused
) -> None:
    held = write_rows("held.jsonl", text.splitlines())
    assert expected in refused(write_config(), "--set", f"data.held_out={held}")


def test_everything_is_held_out(
    write_config: WriteConfig, write_rows: WriteRows, refused: Refused
) -> None:
    write_rows("train.jsonl", make_rows(10))
    held = write_rows("held.jsonl", make_rows(10))
    overrides = ("--set", f"data.validation={held}", "--set", "data.on_leak=drop")
    assert "so dropping them leaves nothing to train on" in refused(write_config(), *overrides)


def test_a_group_that_is_no_text(
    write_config: WriteConfig, tmp_path: Path, refused: Refused
) -> None:
    lines = [json.dumps({**row, "g": f"\ud800{i}"}) for i, row in enumerate(make_rows(10))]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    line = refused(write_config(), "--set", "data.group_key=g")
    assert f"{tmp_path}/train.jsonl:1: a text holds half a surrogate pair" in line
