"""Downloads end in time, whatever the other side does."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

# Seconds that connecting, or waiting for the next bytes, may take.
STALL_S = 30.0
# A socket's timeout of 0 means something else.
_LEAST_S = 0.001

T = TypeVar("T")


class Deadline:
    """When a download must be over, and what ends it then. Thread-safe."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._error: Exception | None = None
        self._sockets: list[socket.socket] = []
        self._running: Future[Any] | None = None

    @property
    def is_over(self) -> bool:
        """Whether nobody waits any longer."""
        return self._error is not None

    def stall_s(self) -> float:
        """How long connecting, or waiting for the next bytes, may take from now on, seconds."""
        return min(STALL_S, max(self._at - time.monotonic(), _LEAST_S))

    def watch(self, connected: socket.socket) -> None:
        """Has `end` shut a socket down, so that whoever reads it goes on."""
        with self._lock:
            self._sockets.append(connected)
        if self.is_over:
            _shut(connected)

    def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, which runs in a thread of its own; one at a time.

        Raises what `end` was called with: TimeoutError when the time is over. What of `work` reads
        no watched socket is then left to end by itself.
        """
        result: Future[T] = Future()
        with self._lock:
            if self._error is not None:
                raise self._error
            self._running = result

        def run() -> None:
            with contextlib.suppress(InvalidStateError):
                try:
                    done = work()
                except Exception as error:
                    result.set_exception(error)
                else:
                    result.set_result(done)

        threading.Thread(target=run, name="download", daemon=True).start()
        try:
            return result.result(max(self._at - time.monotonic(), 0))
        except TimeoutError:
            self.end(TimeoutError())
        return result.result()

    def end(self, error: Exception) -> None:
        """Ends what runs: `run` raises `error` now, and from now on."""
        with self._lock:
            self._error = self._error or error
            sockets, running = tuple(self._sockets), self._running
        if running is not None:
            with contextlib.suppress(InvalidStateError):
                running.set_exception(error)
        for connected in sockets:
            _shut(connected)


def _shut(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)
