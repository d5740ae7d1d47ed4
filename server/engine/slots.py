"""Device slots: adapters in the form that steps run them."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch

from server.adapters.weights import AdapterWeights
from server.engine.placing import Key, PlacedAdapter, Placer
from server.models.layers import LinearGroup
from server.types import AdapterChange, AdapterEvent, AdapterObserver, Lease, Tier, unobserved


class AdapterSlots:
    """Places adapters on the device and evicts the least recently used that nobody uses."""

    def __init__(
        self,
        groups: Sequence[LinearGroup],
        num_slots: int,
        dtype: torch.dtype,
        device: torch.device,
        on_placed: Callable[[str, float], None],
        on_change: AdapterObserver = unobserved,
    ) -> None:
        """`on_placed` is told an adapter's name and the seconds its placing took, `on_change` who
        enters a slot, and who leaves one for another's sake."""
        self._placer = Placer(groups, dtype, device)
        self._num_slots = num_slots
        self._on_placed = on_placed
        self._on_change = on_change
        self._placed: OrderedDict[Key, PlacedAdapter] = OrderedDict()
        self._doomed: set[Key] = set()
        self._num_placed = 0
        self._num_used = 0
        self.keys: tuple[Key, ...] = ()
        """(name, version) of the adapters in slots. Safe to read from any thread."""

    def can_acquire(self, lease: Lease) -> bool:
        """Whether `acquire` would succeed: placed already, or a slot is free or can be freed."""
        return (lease.name, lease.version) in self._placed or self._num_used < self._num_slots

    def acquire(self, lease: Lease) -> PlacedAdapter:
        """The adapter's slot, with one more user. Requires `can_acquire(lease)`."""
        key = (lease.name, lease.version)
        placed = self._placed.get(key)
        if placed is None:
            if len(self._placed) >= self._num_slots:
                unused = next(k for k, p in self._placed.items() if p.num_users == 0)
                self._drop(unused)
                self._tell(unused, Tier.HOST)
            started = time.perf_counter()
            placed = self._place(key, lease.weights)
            self._placed[key] = placed
            self.keys = tuple(sorted(self._placed))
            self._on_placed(lease.name, time.perf_counter() - started)
            self._tell(key, Tier.DEVICE)
        self._placed.move_to_end(key)
        self._num_used += placed.num_users == 0
        placed.num_users += 1
        return placed

    def release(self, placed: PlacedAdapter) -> None:
        """Takes back one use."""
        placed.num_users -= 1
        if placed.num_users == 0:
            self._num_used -= 1
            if placed.key in self._doomed:
                self._drop(placed.key)

    def evict(self, key: Key) -> None:
        """Empties the adapter's slot, now or when its last user releases it."""
        placed = self._placed.get(key)
        if placed is None:
            return
        if placed.num_users:
            self._doomed.add(key)
        else:
            self._drop(key)

    def check_integrity(self, used: Sequence[PlacedAdapter]) -> None:
        """Raises AssertionError unless `used` are all uses there are."""
        assert len(self._placed) <= self._num_slots
        for key, placed in self._placed.items():
            count = sum(other is placed for other in used)
            assert placed.num_users == count, f"{key}: {placed.num_users} users, {count} found"
        assert self._num_used == sum(p.num_users > 0 for p in self._placed.values())
        placed_ids = {id(placed) for placed in self._placed.values()}
        assert all(id(other) in placed_ids for other in used), "an evicted adapter is in use"

    def _drop(self, key: Key) -> None:
        del self._placed[key]
        self._doomed.discard(key)
        self.keys = tuple(sorted(self._placed))

    def _tell(self, key: Key, tier: Tier) -> None:
        self._on_change(AdapterEvent(AdapterChange.TIER, *key, tier, time.time()))

    def _place(self, key: Key, weights: object) -> PlacedAdapter:
        assert isinstance(weights, AdapterWeights)
        self._num_placed += 1
        return self._placer.place(key, self._num_placed, weights)
