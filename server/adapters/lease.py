"""A version in host memory, and a request's hold on it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from server.adapters.artifact import AdapterVersion
from understudy.prompt import PromptTemplate


@dataclass(slots=True)
class Resident:
    """A version in host memory. Fields change under the lock of `AdapterTiers`."""

    adapter: AdapterVersion
    stored: bool
    """The store has it and keeps it, so that it can be evicted and come back."""
    loaded_at: float
    last_used_at: float
    num_leases: int = 0
    pinned: bool = False
    retired: bool = False
    """Takes no new leases; leaves memory with its last one."""


class AdapterLease:
    """A hold on one resident version; implements `server.types.Lease`."""

    def __init__(self, adapter: AdapterVersion, release: Callable[[], None]) -> None:
        self.adapter = adapter
        self._release: Callable[[], None] | None = release
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Adapter name."""
        return self.adapter.name

    @property
    def version(self) -> str:
        """Adapter version."""
        return self.adapter.version

    @property
    def num_virtual_tokens(self) -> int:
        """Positions of the context that the adapter itself takes."""
        return self.adapter.num_virtual_tokens

    @property
    def template(self) -> PromptTemplate | None:
        """The adapter's prompt template."""
        return self.adapter.template

    @property
    def weights(self) -> object:
        """The adapter's tensors in host memory."""
        return self.adapter.weights

    def release(self) -> None:
        """Ends the hold. Safe to call from any thread, and more than once."""
        with self._lock:
            release, self._release = self._release, None
        if release is not None:
            release()
