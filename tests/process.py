"""A real server process on free ports."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

READY_TIMEOUT_S = 120.0


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


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "server", *map(str, arguments)]


def environment(num_threads: int = 1) -> dict[str, str]:
    """Return the environment for a process that computes with this many threads."""
    threads = {"OMP_NUM_THREADS": str(num_threads), "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **threads}


def start(folder: Path, arguments: Sequence[object], num_threads: int = 1) -> ServerProcess:
    """Start a server on free ports and wait until it is ready.

    One thread by default: on a tiny model more are slower, and tests share the machine.
    Raises RuntimeError with the server's log if it does not get ready.
    """
    ready, log = folder / "ready.json", folder / "server.log"
    full = command(*arguments, "--port", 0, "--metrics-port", 0, "--ready-file", ready)
    with log.open("w") as output:
        process = subprocess.Popen(
            full, stdout=output, stderr=subprocess.STDOUT, text=True, env=environment(num_threads)
        )
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise RuntimeError(f"server did not get ready:\n{log.read_text()}")
        time.sleep(0.05)
    where = json.loads(ready.read_text())
    return ServerProcess(process, where["address"], where["metrics"], log)
