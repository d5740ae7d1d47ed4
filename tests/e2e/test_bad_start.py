"""What operators get wrong: a program that cannot start says why in one line and exits with 2."""

import json
import socket
import subprocess
import sys
from pathlib import Path

from tests.process import environment

ROOT = Path(__file__).resolve().parent.parent.parent


def fails(*arguments: object) -> str:
    """Run a program that must refuse its input: exit code 2 and one line, which is returned."""
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(), timeout=120, cwd=ROOT
    )
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("usage:")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_port_in_use(base: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = fails("server", "--base", base, "--port", port, "--metrics-port", 0)
    assert str(port) in line
    assert "in use" in line


def test_metrics_port_in_use(base: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = fails("server", "--base", base, "--port", 0, "--metrics-port", port)
    assert str(port) in line
    assert "in use" in line


def test_server_config_with_an_unknown_key(base: Path, tmp_path: Path) -> None:
    config = tmp_path / "server.yaml"
    config.write_text(f"base:\n  directory: {base}\n  quantisation: nf4\n")
    line = fails("server", "--config", config)
    assert config.name in line
    assert "quantisation" in line
    assert "quantization" in line


def test_no_such_base(tmp_path: Path) -> None:
    line = fails("server", "--base", tmp_path / "nowhere", "--port", 0, "--metrics-port", 0)
    assert "nowhere" in line


def train(folder: Path, rows: str, base: Path, extra: str = "") -> str:
    """Run the trainer on spoilt files and return its line."""
    (folder / "train.jsonl").write_text(rows, encoding="utf-8")
    output = f"{{dir: {folder / 'run'}, store: {folder / 'store'}}}"
    (folder / "train.yaml").write_text(
        f"name: spoilt\nbase: {base}\noutput: {output}\n"
        f"data:\n  train: {folder / 'train.jsonl'}\n{extra}",
        encoding="utf-8",
    )
    line = fails("trainer", "train", folder / "train.yaml")
    assert not (folder / "store").exists()
    return line


def test_broken_jsonl_line(base: Path, tmp_path: Path) -> None:
    good = json.dumps({"input": "a note", "completion": "an answer"})
    line = train(tmp_path, f'{good}\n{good}\n{{"input": "half\n{good}\n', base)
    assert "train.jsonl:3" in line
    assert "JSON" in line


def test_training_config_with_an_unknown_key(base: Path, tmp_path: Path) -> None:
    good = json.dumps({"input": "a note", "completion": "an answer"})
    line = train(tmp_path, good, base, "  valdiation: 0.1\n")
    assert "train.yaml" in line
    assert "valdiation" in line
    assert "validation" in line
