"""The demo's evaluation: its commands are ones that the suite takes, in the right order."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from demo.evaluate import commands, main


def test_commands(parse_command: Callable[[Sequence[str]], None], tmp_path: Path) -> None:
    found = commands(tmp_path, tmp_path / "out", "localhost:1", 5)
    assert [command[3] for command in found.values()] == ["load", "run", "matrix", "report", "gate"]
    for command in found.values():
        assert str(tmp_path / "out") in command
        parse_command(command)


def test_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert f"python -m demo --out {tmp_path}" in capsys.readouterr().err
    (tmp_path / "store").mkdir()
    (tmp_path / "data").mkdir()
    assert main([str(tmp_path), "--limit", "0"]) == 2
    assert "--limit must be at least 1" in capsys.readouterr().err
