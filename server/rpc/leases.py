"""From an adapter reference on the wire to a lease, loading from the store beside the loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from server.adapters.lease import AdapterLease
from server.adapters.store import Reference, parse_reference
from server.adapters.sums import AdapterSums, SumLease
from server.adapters.tiers import AdapterTiers
from server.errors import AdapterMemoryError
from server.metrics import Metrics
from server.types import Tier
from understudy.artifact import BASE_NAME

T = TypeVar("T")
AdapterChoice = str | tuple[tuple[str, float], ...]
"""What a request runs with: one adapter by its reference, or several, each with its weight."""
AnyLease = AdapterLease | SumLease

# A version can be evicted between its load and its lease only while memory overflows.
_ATTEMPTS = 3


class LeaseDesk:
    """Gives leases. Requests that wait for the same adapter share one load."""

    def __init__(
        self,
        tiers: AdapterTiers,
        loader: Executor,
        reader: Executor,
        metrics: Metrics,
        is_placed: Callable[[str, str], bool],
        sums: AdapterSums,
    ) -> None:
        """`loader` runs the loads; its own, so that they never hold up anything else. `reader`
        looks names up and makes sums. `is_placed(name, version)`: whether a device slot has
        it."""
        self._tiers = tiers
        self._loader = loader
        self._reader = reader
        self._metrics = metrics
        self._is_placed = is_placed
        self._sums = sums
        self._loads: dict[Reference, asyncio.Future[Reference]] = {}
        self._look_ups: dict[Reference, asyncio.Future[str]] = {}

    async def acquire(self, adapter: AdapterChoice) -> AnyLease | None:
        """A lease on the version that `adapter` names, or on a sum; None for the bare base.

        Raises InvalidRequestError, AdapterNotFoundError with close names, AdapterRefusedError,
        AdapterMemoryError.
        """
        if not isinstance(adapter, str):
            return await self._acquire_sum(adapter)
        if adapter in ("", BASE_NAME):
            return None
        return await self._acquire_one(parse_reference(adapter))

    async def _acquire_sum(self, terms: tuple[tuple[str, float], ...]) -> SumLease:
        references = [
            parse_reference(name, f"adapters[{i}].adapter") for i, (name, _) in enumerate(terms)
        ]
        leases: list[AdapterLease] = []
        try:
            for reference in references:
                leases.append(await self._acquire_one(reference))
            members = [(lease, weight) for lease, (_, weight) in zip(leases, terms, strict=True)]
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._reader, self._sums.acquire, members)
        except BaseException:
            for lease in leases:
                lease.release()
            raise

    async def _acquire_one(self, reference: Reference) -> AdapterLease:
        lease = self._tiers.try_acquire(reference)
        if lease is None:
            # Before anything is asked of the loader: what there is not must not hold up what loads.
            version = await self._look_up(reference)
            # In memory under its version, maybe.
            lease = self._tiers.try_acquire(Reference(reference.name, version))
        if lease is not None:
            placed = self._is_placed(lease.name, lease.version)
            self._metrics.adapter_hit(Tier.DEVICE if placed else Tier.HOST)
            return lease
        for _ in range(_ATTEMPTS):
            lease = self._tiers.try_acquire(await self._prepare(reference))
            if lease is not None:
                self._metrics.adapter_hit(Tier.DISK)
                return lease
        raise AdapterMemoryError(f"adapter {str(reference)!r} is evicted as fast as it loads")

    async def _prepare(self, reference: Reference) -> Reference:
        return await _shared(self._loads, reference, self._loader, self._tiers.prepare)

    async def _look_up(self, reference: Reference) -> str:
        return await _shared(self._look_ups, reference, self._reader, self._tiers.look_up)


async def _shared(
    running: dict[Reference, asyncio.Future[T]],
    reference: Reference,
    executor: Executor,
    work: Callable[[Reference], T],
) -> T:
    """The result of `work(reference)`, which runs once for all that ask for it meanwhile."""
    result = running.get(reference)
    if result is None:

        def forget(done: asyncio.Future[T]) -> None:
            del running[reference]
            if not done.cancelled():
                # Marks the exception as seen, where every waiter has gone.
                done.exception()

        result = asyncio.get_running_loop().run_in_executor(executor, work, reference)
        running[reference] = result
        result.add_done_callback(forget)
    # Whoever gives up must not stop it for the others.
    return await asyncio.shield(result)
