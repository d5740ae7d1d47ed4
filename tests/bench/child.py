"""A child process that answers one JSON line with one JSON line.

Everything that computes runs in a process of its own, so that nothing shares memory, threads or
an interpreter lock with what it is compared with. Standard library only: the parent starts
children in other environments too.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Answer = Mapping[str, Any]


class ChildError(RuntimeError):
    """A child ended, or could not do what it was asked. The message has its last words."""


class Child:
    """The parent's side."""

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """Starts the process; its output beside the answers goes to `log`."""
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env=environment,
            )

    def ask(self, do: str, **arguments: Any) -> Answer:
        """Send a question and wait for its answer. Raises ChildError."""
        self.send(do, **arguments)
        return self.receive()

    def send(self, do: str, **arguments: Any) -> None:
        """Send a question; `receive` takes its answer. Raises ChildError."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def receive(self) -> Answer:
        """The answer to the oldest question without one. Raises ChildError."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ChildError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _ended(self) -> ChildError:
        code = self.process.wait()
        tail = self._log.read_text(errors="replace").splitlines()[-20:]
        return ChildError("\n".join([f"a child process ended with exit code {code}:", *tail]))


def serve(handlers: Mapping[str, Callable[..., Answer]]) -> None:
    """The child's side: answer questions with `handlers[do](**arguments)` until the parent ends.

    What a handler raises is sent as the answer. Whatever libraries print goes to standard error.
    """
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = handlers[question.pop("do")](**question)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        channel.write(json.dumps(answer) + "\n")
        channel.flush()
