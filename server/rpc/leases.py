"""From an adapter reference on the wire to a lease, loading from the store beside the loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

from server.adapters.lease import AdapterLease
from server.adapters.store import Reference, parse_reference
from server.adapters.tiers import AdapterTiers
from server.errors import AdapterMemoryError
from server.metrics import Metrics
from server.types import Tier
from understudy.artifact import BASE_NAME

# A version can be evicted between its load and its lease only while memory overflows.
_ATTEMPTS = 3


class LeaseDesk:
    """Gives leases. Requests that wait for the same adapter share one load."""

    def __init__(
        self,
        tiers: AdapterTiers,
        executor: Executor,
        metrics: Metrics,
        is_placed: Callable[[str, str], bool],
    ) -> None:
        """`executor` runs the loads; its own, so that they never hold up anything else.
        `is_placed(name, version)`: whether a device slot has it."""
        self._tiers = tiers
        self._executor = executor
        self._metrics = metrics
        self._is_placed = is_placed
        self._loads: dict[Reference, asyncio.Future[Reference]] = {}

    async def acquire(self, adapter: str) -> AdapterLease | None:
        """A lease on the version that `adapter` names; None for the bare base.

        Raises InvalidRequestError, AdapterNotFoundError with close names, AdapterRefusedError,
        AdapterMemoryError.
        """
        if adapter in ("", BASE_NAME):
            return None
        reference = parse_reference(adapter)
        lease = self._tiers.try_acquire(reference)
        if lease is not None:
            placed = self._is_placed(lease.name, lease.version)
            self._metrics.adapter_hit(Tier.DEVICE if placed else Tier.HOST)
            return lease
        for _ in range(_ATTEMPTS):
            lease = self._tiers.try_acquire(await self._prepare(reference))
            if lease is not None:
                self._metrics.adapter_hit(Tier.DISK)
                return lease
        raise AdapterMemoryError(f"adapter {adapter!r} is evicted as fast as it loads")

    async def _prepare(self, reference: Reference) -> Reference:
        load = self._loads.get(reference)
        if load is None:
            loop = asyncio.get_running_loop()
            load = loop.run_in_executor(self._executor, self._tiers.prepare, reference)
            self._loads[reference] = load
            load.add_done_callback(lambda done: self._forget(reference, done))
        # Whoever gives up must not stop the load for the others.
        return await asyncio.shield(load)

    def _forget(self, reference: Reference, load: "asyncio.Future[Reference]") -> None:
        del self._loads[reference]
        if not load.cancelled():
            # Marks the exception as seen, where every waiter has gone.
            load.exception()
