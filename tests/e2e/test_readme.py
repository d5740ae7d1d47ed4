"""The README's own-model section, run as it stands: train, serve, evaluate.

Its `yaml` blocks are written to the files they name in their first line, `path/to/model` is the
tiny base, and the data files they mention are made up. Only the interpreter and the ports differ.
"""

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.process import environment
from understudy import Client

ROOT = Path(__file__).resolve().parent.parent.parent
SECTION = re.compile(r"^## Your own model\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
PORT = "50051"


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


@pytest.fixture
def section() -> str:
    found = SECTION.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found
    return found[1]


@pytest.fixture
def folder(section: str, base: Path, tmp_path: Path) -> Path:
    """A user's folder: the README's files, data of their own, a model directory."""
    rows = [{"input": f"note {i}", "completion": f"answer {i % 7}"} for i in range(48)]
    for text in blocks(section, "yaml"):
        name = text.splitlines()[0].removeprefix("# ").split()[0]
        (tmp_path / name).write_text(text, encoding="utf-8")
        data = yaml.safe_load(text)["data"]
        path = tmp_path / (data if isinstance(data, str) else data["train"])
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "model").symlink_to(base)
    return tmp_path


def test_own_model(section: str, folder: Path, free_port: int) -> None:
    lines = [line for block in blocks(section, "sh") for line in block.splitlines()]
    commands = []
    for line in lines:
        words = shlex.split(line.replace(PORT, str(free_port)), comments=True)
        if words[1:2] == ["-m"]:
            commands.append([sys.executable, *words[1:]])
    programs = [command[2] for command in commands]
    assert programs == ["trainer", "server", "evalsuite"]
    train, serve, evaluate = commands

    subprocess.run(train, cwd=folder, env=environment(2), check=True, timeout=200)
    adapter = yaml.safe_load((folder / train[-1]).read_text(encoding="utf-8"))["name"]
    server = subprocess.Popen([*serve, "--metrics-port", "0"], cwd=folder, env=environment())
    try:
        with Client(f"localhost:{free_port}") as client:
            client.wait_ready(timeout=120)
            assert [found.name for found in client.adapters.list()] == [adapter]
            subprocess.run(evaluate, cwd=folder, env=environment(), check=True, timeout=200)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    reports = list(folder.rglob("report.json"))
    assert len(reports) == 1
    assert adapter in reports[0].read_text(encoding="utf-8")
