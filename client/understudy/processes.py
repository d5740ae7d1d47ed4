"""Child processes: run one to its end, or keep a server for a while."""

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0


class ChildError(Exception):
    """A child process failed; the message says which and how it ended."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came. An event loop lets only this kind of exception end it from a signal handler."""


def terminate(*_: object) -> NoReturn:
    """A handler of SIGTERM: raises Terminated."""
    raise Terminated


@dataclass(frozen=True)
class ServerAddress:
    """Where a started server listens."""

    address: str
    """host:port of gRPC."""
    metrics: str
    """URL of the Prometheus metrics."""


def python(*arguments: str) -> list[str]:
    """The command line of `python -m ARGUMENTS` with this interpreter."""
    return [sys.executable, "-m", *arguments]


def _spawn(command: Sequence[str], output: BinaryIO | None = None) -> subprocess.Popen[bytes]:
    """Starts a child; a signal that comes meanwhile ends it before KeyboardInterrupt or Terminated.

    Raised while Popen waits for the new program, it would leave a child that nobody knows.
    """
    received: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {
        number: signal.signal(number, lambda n, _: received.append(n)) for number in signals
    }
    try:
        errors = None if output is None else subprocess.STDOUT
        child = subprocess.Popen(command, stdout=output, stderr=errors)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        stop(child)
        raise Terminated if signal.SIGTERM in received else KeyboardInterrupt
    return child


def run(command: Sequence[str], what: str, log: Path | None = None) -> None:
    """Runs a child to its end with this terminal, or with its command and output in `log`.

    Raises ChildError if it fails: in its own words where there is a log.
    """
    shown = shlex.join(["python", *command[1:]])
    if log is None:
        child = _spawn(command)
    else:
        with log.open("wb") as output:
            output.write(f"{shown}\n".encode())
            output.flush()
            child = _spawn(command, output)
    try:
        code = child.wait()
    except BaseException:
        stop(child)
        raise
    if code:
        if log is None:
            raise ChildError(f"{what} failed with exit code {code}: {shown}")
        said = _last_line(log)
        said = "it said nothing" if said == shown else said
        raise ChildError(f"{what} failed: {said} (exit code {code}; see {log})")


def stop(child: subprocess.Popen[bytes]) -> int:
    """Ends a child with SIGTERM, and with SIGKILL if it does not go; returns its exit code."""
    child.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            child.wait(STOP_TIMEOUT_S)
    finally:
        # Does nothing if the child has ended; a second Ctrl-C must not leave it behind.
        child.kill()
    return child.wait()


@contextmanager
def server(
    arguments: Sequence[str], directory: Path, ready_timeout_s: float = READY_TIMEOUT_S
) -> Iterator[ServerAddress]:
    """A server on a free port for the length of the `with` block; its log lies in `directory`.

    Raises ChildError if it does not become ready, or does not end cleanly.
    """
    ready_file, log = directory / "server.ready.json", directory / "server.log"
    ready_file.unlink(missing_ok=True)
    command = python("server", *arguments, "--port", "0", "--metrics-port", "0")
    command += ["--ready-file", str(ready_file)]
    with log.open("wb") as output:
        child = _spawn(command, output)
        try:
            yield _wait_ready(child, ready_file, log, ready_timeout_s)
        except BaseException:
            stop(child)
            raise
        if code := stop(child):
            raise ChildError(f"the server ended with exit code {code}; see {log}")


def _wait_ready(
    child: subprocess.Popen[bytes], ready_file: Path, log: Path, timeout_s: float
) -> ServerAddress:
    deadline = time.monotonic() + timeout_s
    while not ready_file.exists():
        if (code := child.poll()) is not None:
            raise ChildError(f"the server did not start (exit code {code}): {_last_line(log)}")
        if time.monotonic() > deadline:
            raise ChildError(f"the server was not ready after {timeout_s:.0f} s; see {log}")
        time.sleep(0.1)
    ready = json.loads(ready_file.read_text())
    return ServerAddress(address=ready["address"], metrics=ready["metrics"])


def _last_line(log: Path) -> str:
    tail = log.read_text(errors="replace").strip().splitlines()[-1:]
    return "".join(tail) or "it said nothing"
