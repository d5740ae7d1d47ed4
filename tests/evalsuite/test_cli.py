"""The command line: help, and one clear line with exit code 2 for whatever is wrong."""

import json
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from evalsuite.__main__ import main


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[[Sequence[str]], str]:
    """Runs a command that must fail with exit code 2 and one line, which is returned."""

    def fail(arguments: Sequence[str]) -> str:
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = [line for line in captured.err.splitlines() if line.startswith("evalsuite: ")]
        assert len(lines) == 1
        assert "Traceback" not in captured.err
        return lines[0]

    return fail


def arguments(files: Any, address: str, out: Path, adapters: str = "base") -> list[str]:
    command = ["run", "--server", address, "--adapters", adapters, "--out", str(out)]
    return [*command, "--tasks", str(files.rewrite)]


def test_unknown_adapter(run: Any, server: Any, make_tasks: Any, tmp_path: Path) -> None:
    line = run(arguments(make_tasks(), server.address, tmp_path / "out", "base,glod"))
    assert line == f"evalsuite: {server.address}: no adapter 'glod'; close names: gold, half"
    assert server.requests == []


def test_unreachable_server(run: Any, make_tasks: Any, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line = run(arguments(make_tasks(), address, tmp_path / "out"))
    assert line.startswith(f"evalsuite: no server answers at {address}: ")


def test_address_with_a_scheme(run: Any, make_tasks: Any, tmp_path: Path) -> None:
    line = run(arguments(make_tasks(), "http://localhost:1", tmp_path / "out"))
    assert "'http://localhost:1' is not HOST:PORT" in line


def test_faults_are_found_before_the_server_is_asked(run: Any, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.yaml")
    line = run(["run", "--server", "localhost:1", "--adapters", "base", "--tasks", missing])
    assert line == f"evalsuite: --tasks: no file '{missing}'"


def test_shots_without_training_file(
    run: Any, server: Any, make_tasks: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = make_tasks()
    server.gold = files.gold
    files.rewrite.write_text(files.rewrite.read_text().replace("train: rewrite.train.jsonl\n", ""))
    command = arguments(files, server.address, tmp_path / "out")
    line = run([*command, "--shots", "0,3"])
    assert "--shots 3: task 'rewrite' names no training file" in line
    assert main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["tasks"]["rewrite"]["rows"]
    assert list(rows) == ["base", "trivial"]


def test_choice_scored_as_nan(run: Any, server: Any, make_tasks: Any, tmp_path: Path) -> None:
    files = make_tasks()
    server.gold = files.gold
    server.logprob = float("nan")
    command = ["run", "--server", server.address, "--adapters", "gold", "--out", str(tmp_path)]
    line = run([*command, "--tasks", str(files.mood)])
    assert "a log-likelihood of NaN" in line


def test_too_many_shots(run: Any, server: Any, make_tasks: Any, tmp_path: Path) -> None:
    command = arguments(make_tasks(num_train=2), server.address, tmp_path / "out")
    assert "--shots 3: task 'rewrite' has only 2 training rows" in run(command)
    assert server.requests == []


@pytest.mark.parametrize("name", ["trivial", "base_3shot"])
def test_rows_of_the_report_are_no_adapters(
    run: Any, server: Any, make_tasks: Any, tmp_path: Path, name: str
) -> None:
    line = run(arguments(make_tasks(), server.address, tmp_path / "out", f"base,{name}"))
    assert f"'{name}' is a row of the report" in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--adapters", "a,,b"], "--adapters: 'a,,b' has an empty name"),
        (["--adapters", "a,a"], "--adapters: 'a,a' names something twice"),
        (["--shots", "0,x"], "--shots: '0,x' is not a list of counts such as 0,3"),
        (["--limit", "0"], "--limit: '0' is not a whole number of at least 1"),
        (["--concurrency", "-1"], "--concurrency: '-1' is not a whole number of at least 1"),
    ],
)
def test_wrong_flags(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["run", "--server", "x:1", "--adapters", "base", "--tasks", "t", *flags])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["run", "--help"])
    assert error.value.code == 0
    assert "python -m evalsuite run --server localhost:50051" in capsys.readouterr().out


def test_list_of_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {task["name"] for task in listed} >= {"support_summary", "review_label"}
    assert main(["tasks"]) == 0
    assert "support_summary" in capsys.readouterr().out
