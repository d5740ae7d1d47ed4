"""A real server that watches its store, beside the store's own commands."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import StartServer
from tests.tiny import lora_config, make_adapter, make_base, prompt_config
from understudy import Client, StoppingParams, StreamDelta, StreamFinished, StreamStarted

LONG = StoppingParams(max_tokens=600, ignore_eos=True)
SHORT = StoppingParams(max_tokens=12, ignore_eos=True)


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Any]:
    """Runs `understudy store ... --json` on the store in a process of its own."""

    def run(*argv: object) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "understudy", "store", *map(str, argv),
             "--store", tmp_path / "store", "--json"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_is_published_appears_by_itself(
    base: Path, start_server: StartServer, command: Callable[..., Any], tmp_path: Path
) -> None:
    artifacts = [
        make_adapter(base, tmp_path / f"v{seed}", lora_config(), name="pirate", seed=seed)
        for seed in (1, 3)
    ]
    prompt = make_adapter(base, tmp_path / "prompt", prompt_config(), name="polite", seed=2)
    foreign_base = make_base(tmp_path / "other", seed=9)
    foreign = make_adapter(foreign_base, tmp_path / "foreign", lora_config(), name="pirate", seed=4)
    first = command("publish", artifacts[0])["version"]
    server = start_server(
        "--base", base, "--quantization", "none", "--store", tmp_path / "store",
        "--watch-store-s", 0.1,
    )  # fmt: skip
    with Client(server.address) as client:

        def version() -> str:
            return str(client.generate("noon", adapter="pirate", stopping=SHORT).adapter.version)

        old = client.generate("noon", adapter="pirate", stopping=SHORT)
        assert old.adapter.version == first
        with client.stream("noon", adapter="pirate", stopping=LONG) as events:
            started = next(event for event in events if isinstance(event, StreamStarted))
            second = command("publish", artifacts[1])["version"]
            until(lambda: version() == second)
            # The stream runs on what it began with, to its end.
            rest = list(events)
        assert isinstance(rest[-1], StreamFinished)
        text = "".join(event.text for event in rest if isinstance(event, StreamDelta))
        assert started.adapter.version == first
        assert text.startswith(old.text)
        new = client.generate("noon", adapter="pirate", stopping=SHORT)
        assert new.text != old.text

        # Another name, and a version that this server refuses: it keeps what it has.
        command("publish", prompt)
        assert client.generate("noon", adapter="polite", stopping=SHORT).text
        command("publish", foreign)
        until(lambda: "stays at its version" in server.log.read_text())
        time.sleep(0.5)
        assert version() == second
        assert server.log.read_text().count("stays at its version") == 1

        # Back to the first version; the second is in the server's memory until it is not.
        kept = command("gc", "--keep", 0, "--age", 0, "--dry-run")["versions"]
        reasons = {verdict["version"]: verdict["reason"] for verdict in kept}
        assert reasons[second] == "in a server's memory"
        command("alias", "pirate", "latest", first)
        until(lambda: version() == first)
        assert client.generate("noon", adapter="pirate", stopping=SHORT).text == old.text
        until(lambda: second in [
            verdict["version"] for verdict in command("gc", "--keep", 0, "--age", 0)["versions"]
            if verdict["removed"]
        ])  # fmt: skip
    assert command("verify")["faults"] == []
    assert server.terminate() == 0
