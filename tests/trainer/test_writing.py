"""JSON as the trainer writes it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import writing
from trainer.log import MetricsLog, plot_losses, read_log

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


def _strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def _with_null(value: Any) -> Any:
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


@given(_VALUES)
def test_everything_is_json_to_strict_readers(value: Any) -> None:
    assert _strict(writing.json_line(value)) == _with_null(value)
    assert _strict(writing.json_line(value, ensure_ascii=False)) == _with_null(value)
    assert _strict(writing.pretty(value)) == _with_null(value)
    assert "\n" not in writing.json_line(value)


def test_a_loss_that_is_no_number_is_null_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write("validation", step=0, loss=math.nan, accuracy=0.5)
        log.write("validation", step=2, loss=-math.inf)
        log.write("validation", step=4, loss=1.25)
    lines = [_strict(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"event": "validation", "step": 0, "loss": None, "accuracy": 0.5}
    assert [line["loss"] for line in lines] == [None, None, 1.25]
    records = read_log(path)
    assert [math.isnan(record["loss"]) for record in records] == [True, True, False]
    plot_losses(records, "run", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_is_whole_or_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    writing.write_json(path, {"b": 1, "a": math.inf})
    assert path.read_text() == '{\n  "b": 1,\n  "a": null\n}\n'
    writing.write_json(path, {"b": 1, "a": 2}, sort_keys=True)
    assert path.read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        writing.write_json(path, {})
    assert json.loads(path.read_text()) == {"a": 2, "b": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_equal_values_have_one_hash() -> None:
    assert writing.digest({"a": 1, "b": [Path("x")]}) == writing.digest({"b": ["x"], "a": 1})
    # Kept in the folders of runs: another text would part them from their checkpoints.
    assert writing.canonical({"b": 1, "a": [1.5, "ä"]}) == '{"a": [1.5, "\\u00e4"], "b": 1}'
