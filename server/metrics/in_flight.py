"""Which adapters' requests wait and run now."""

import threading
from collections import Counter


class InFlight:
    """Counts the engine's open requests by adapter. Thread-safe; holds only names with a request.

    Every request calls `accepted`, `left_queue` and `ended` once each, in this order.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: Counter[str] = Counter()
        self._running: Counter[str] = Counter()

    def accepted(self, adapter: str) -> None:
        """A request waits to start."""
        with self._lock:
            self._waiting[adapter] += 1

    def left_queue(self, adapter: str) -> None:
        """It waits no longer: it runs, or is about to end."""
        with self._lock:
            _take(self._waiting, adapter)
            self._running[adapter] += 1

    def ended(self, adapter: str) -> None:
        """It ended."""
        with self._lock:
            _take(self._running, adapter)

    def waiting(self) -> dict[str, int]:
        """Requests that wait, by adapter."""
        with self._lock:
            return dict(self._waiting)

    def running(self) -> dict[str, int]:
        """Requests that run, by adapter."""
        with self._lock:
            return dict(self._running)


def _take(counts: Counter[str], adapter: str) -> None:
    counts[adapter] -= 1
    if not counts[adapter]:
        del counts[adapter]
