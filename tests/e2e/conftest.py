"""A tiny base, two adapters made by PEFT, and a real server process on free ports."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from understudy.store import publish

from tests.tiny import lora_config, make_adapter, make_base, prompt_config

READY_TIMEOUT_S = 120.0


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


@dataclass(frozen=True)
class Artifacts:
    """The adapters of the end-to-end tests, as artifact directories and as a store of both."""

    lora: Path
    prompt: Path
    store: Path


@pytest.fixture(scope="session")
def artifacts(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    folder = tmp_path_factory.mktemp("adapters")
    lora = make_adapter(base, folder / "lora", lora_config(), name="pirate", seed=1)
    prompt = make_adapter(base, folder / "prompt", prompt_config(), name="polite", seed=2)
    store = folder / "store"
    publish(lora, store, "pirate")
    publish(prompt, store, "polite")
    return Artifacts(lora=lora, prompt=prompt, store=store)


@dataclass
class ServerProcess:
    """A running server."""

    process: subprocess.Popen[str]
    address: str
    metrics_url: str
    log: Path

    def sample(self, name: str, **labels: str) -> float:
        """Return the sum of a series' samples that carry these labels, 0 if there are none."""
        with urllib.request.urlopen(self.metrics_url, timeout=10) as response:
            text = response.read().decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def terminate(self, timeout_s: float = 60.0) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


StartServer = Callable[..., ServerProcess]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "server", *map(str, arguments)]


def environment() -> dict[str, str]:
    """Return an environment in which processes share two cores politely."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def start(folder: Path, arguments: Sequence[object]) -> ServerProcess:
    """Start a server on free ports and wait until it is ready."""
    ready, log = folder / "ready.json", folder / "server.log"
    full = command(*arguments, "--port", 0, "--metrics-port", 0, "--ready-file", ready)
    with log.open("w") as output:
        process = subprocess.Popen(
            full, stdout=output, stderr=subprocess.STDOUT, text=True, env=environment()
        )
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            pytest.fail(f"server did not get ready:\n{log.read_text()}")
        time.sleep(0.05)
    where = json.loads(ready.read_text())
    return ServerProcess(process, where["address"], where["metrics"], log)


@pytest.fixture
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Return a function that starts servers; they end with the test."""
    started: list[ServerProcess] = []

    def launch(*arguments: object) -> ServerProcess:
        server = start(tmp_path_factory.mktemp("server"), arguments)
        started.append(server)
        return server

    yield launch
    for server in started:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="session")
def server(
    base: Path, artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """One server with the tiny base in nf4 and both adapters, for tests that leave it unharmed."""
    running = start(
        tmp_path_factory.mktemp("server"),
        ["--base", base, "--store", artifacts.store, "--quantization", "nf4", "--device", "cpu"],
    )
    yield running
    assert running.terminate() == 0, running.log.read_text()
