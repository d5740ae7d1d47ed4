"""How much the store holds, for metrics: counted beside whoever asks."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor

from server.adapters.store import AdapterStore
from understudy.artifact import TENSORS_FILE

_LOG = logging.getLogger(__name__)
# Between two counts, seconds: one looks at every name's folder.
_PERIOD_S = 30.0


class StoreTotals:
    """Counts versions and bytes in another thread, no more often than every half minute."""

    def __init__(
        self,
        store: AdapterStore,
        executor: Executor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begins to count at once. `clock` counts seconds."""
        self._store = store
        self._executor = executor
        self._clock = clock
        self._lock = threading.Lock()
        self._counting = False
        self._counted_s = 0.0
        self._totals = (0, 0)
        # Bytes of the versions that were there, as those never change.
        self._sizes: dict[tuple[str, str], int] = {}
        self._start()

    def read(self) -> tuple[int, int]:
        """Versions, and bytes of their tensor files, when last counted. Does not block."""
        if self._clock() - self._counted_s >= _PERIOD_S:
            self._start()
        return self._totals

    def _start(self) -> None:
        with self._lock:
            if self._counting:
                return
            self._counting = True
        try:
            self._executor.submit(self._count)
        except RuntimeError:
            # It is shut down; the last count stands.
            return

    def _count(self) -> None:
        try:
            sizes: dict[tuple[str, str], int] = {}
            for name in self._store.names():
                for version in self._store.versions(name):
                    key = (name, version)
                    size = self._sizes.get(key)
                    sizes[key] = self._size(*key) if size is None else size
            self._sizes = sizes
            self._totals = (len(sizes), sum(sizes.values()))
        except OSError:
            _LOG.warning("cannot count what the store holds", exc_info=True)
        finally:
            with self._lock:
                self._counting = False
                self._counted_s = self._clock()

    def _size(self, name: str, version: str) -> int:
        assert self._store.root is not None
        try:
            return (self._store.root / name / version / TENSORS_FILE).stat().st_size
        except OSError:
            # It was removed meanwhile, or cannot be served.
            return 0
