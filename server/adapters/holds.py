"""What this server has in memory stays in the store: shared locks that garbage collection honours.

See `understudy.locks`. A hold begins before a version is read and ends when it has left host
memory, or with the process.
"""

import contextlib
import logging
import threading
import time
from collections import Counter
from pathlib import Path

from server.errors import AdapterNotFoundError
from understudy.artifact import ArtifactError
from understudy.locks import StoreLocks

_LOG = logging.getLogger(__name__)
_WAIT_S = 10.0
_POLL_S = 0.005

Key = tuple[str, str]


class StoreHolds:
    """The holds of one server. Thread-safe; a version may be held more than once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._counts: Counter[Key] = Counter()
        self._locks: StoreLocks | None = None
        self._warned = False

    def take(self, name: str, version: str) -> None:
        """Holds a version. Waits while somebody removes it. *Blocking.*

        Where the store cannot be locked, warns once and holds nothing. Raises AdapterNotFoundError
        if it is still being removed after _WAIT_S.
        """
        deadline = time.monotonic() + _WAIT_S
        while not self.try_take(name, version):
            if time.monotonic() >= deadline:
                raise AdapterNotFoundError(f"{name}@{version}", note="it is being removed")
            time.sleep(_POLL_S)

    def try_take(self, name: str, version: str) -> bool:
        """Holds a version, unless somebody is removing it. Does not wait."""
        with self._lock:
            try:
                locks = self._locks or self._open()
                if not locks.take(f"{name}/{version}", shared=True):
                    return False
            except ArtifactError as error:
                if not self._warned:
                    self._warned = True
                    _LOG.warning("garbage collection may remove what is in use: %s", error)
            self._counts[name, version] += 1
            return True

    def release(self, name: str, version: str) -> None:
        """Ends one hold. Does not wait."""
        with self._lock:
            self._counts[name, version] -= 1
            if self._counts[name, version] <= 0:
                del self._counts[name, version]
                if self._locks is not None:
                    with contextlib.suppress(ArtifactError):
                        self._locks.release(f"{name}/{version}")

    def held(self) -> list[Key]:
        """The versions that are held."""
        with self._lock:
            return sorted(self._counts)

    def close(self) -> None:
        """Ends every hold."""
        with self._lock:
            self._counts.clear()
            if self._locks is not None:
                self._locks.close()
                self._locks = None

    def _open(self) -> StoreLocks:
        locks = StoreLocks(self._root, read_only=True)
        # Taken while there was no lock file yet.
        for name, version in self._counts:
            locks.take(f"{name}/{version}", shared=True)
        self._locks = locks
        return locks
