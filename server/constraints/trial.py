"""Tries grammars in a process of its own, where none can harm the server."""

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LOG = logging.getLogger(__name__)

_PROGRAM = Path(__file__).with_name("trial_process.py")
# Seconds on the clock until an answer is given up. The process limits itself by processor time,
# and a busy machine may be slow to give it any.
_TIMEOUT_S = 120.0


class TrialError(Exception):
    """The process of trials does not start, or has died."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a trial found."""

    error: str
    """Why the grammar is refused. Empty: it is good."""
    memory_bytes: int
    """What the compiled grammar takes, about."""


class Trial:
    """The process of trials. Starts with the first one. One `run` at a time."""

    def __init__(self) -> None:
        # Guards both below: `close` does not wait for `run`.
        self._changed = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def run(
        self, settings: dict[str, Any], grammar: str, *, seconds: float, num_bytes: int
    ) -> Verdict:
        """Compiles a grammar under limits of processor time and memory. Raises TrialError.

        `settings`, the same in every call, is what the process reads first.
        """
        job = {"grammar": grammar, "seconds": seconds, "num_bytes": num_bytes}
        try:
            return self._ask(self._process or self._start(settings), job)
        except TrialError:
            # Such as the kernel's choice when memory ran out: once more, from the start.
            self._end()
            _LOG.warning("the process that tries grammars has died; it starts anew")
            return self._ask(self._start(settings), job)

    def close(self) -> None:
        """Ends the process, and with TrialError the trial that runs. From any thread."""
        with self._changed:
            self._closed = True
        self._end()

    def _end(self) -> None:
        with self._changed:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                # What could not be written is written once more.
                with contextlib.suppress(OSError):
                    pipe.close()

    def _start(self, settings: dict[str, Any]) -> "subprocess.Popen[str]":
        with self._changed:
            if self._closed:
                raise TrialError("the server is shutting down")
            # -P: this file's folder is no place to import from. A session of its own: signals that
            # a terminal sends to the server must not end it before the server has stopped. One
            # arena: a thread's own would reserve 64 MiB of the address space that a trial may
            # take, or not, by chance of where it lies.
            process = self._process = subprocess.Popen(
                [sys.executable, "-P", str(_PROGRAM)],
                env={**os.environ, "MALLOC_ARENA_MAX": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                start_new_session=True,
            )
        self._ask(process, settings)
        return process

    def _ask(self, process: "subprocess.Popen[str]", line: dict[str, Any]) -> Verdict:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(line) + "\n")
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], _TIMEOUT_S)
            answer = process.stdout.readline() if ready else ""
        except (OSError, ValueError) as error:
            # ValueError: closed meanwhile.
            raise TrialError("the process that tries grammars has died") from error
        if not answer:
            raise TrialError("the process that tries grammars does not answer")
        return Verdict(**json.loads(answer))
