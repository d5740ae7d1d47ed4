"""Device slots: the adapters that the next step can use, and the room for more."""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence

from server.adapters.weights import tensors_of
from server.engine.placing import Key, PlacedAdapter
from server.errors import AdapterMemoryError
from server.types import AdapterChange, AdapterEvent, AdapterObserver, Tier, unobserved


class AdapterSlots:
    """Holds placed adapters within a number and a sum of bytes; those that nobody uses make room.

    An adapter takes the bytes of its own tensors: nothing is padded to the largest. Not
    thread-safe, but for `keys`.
    """

    def __init__(
        self,
        num_slots: int,
        max_bytes: int | None,
        on_dropped: Callable[[PlacedAdapter], None] = lambda _: None,
        on_change: AdapterObserver = unobserved,
    ) -> None:
        """`on_dropped` is told of adapters that leave, `on_change` who enters a slot, and who
        leaves one for another's sake. `max_bytes` None: no limit."""
        self._num_slots = num_slots
        self._max_bytes = max_bytes
        self._on_dropped = on_dropped
        self._on_change = on_change
        # The least recently used first.
        self._placed: OrderedDict[Key, PlacedAdapter] = OrderedDict()
        self._sizes: dict[Key, int] = {}
        self._pinned: set[Key] = set()
        self._num_adopted = 0
        self.keys: tuple[Key, ...] = ()
        """(name, version) of the adapters in slots. Safe to read from any thread."""

    @property
    def num_bytes(self) -> int:
        """Bytes that are taken or reserved."""
        return sum(self._sizes.values())

    def __contains__(self, key: Key) -> bool:
        return key in self._placed

    def check_size(self, key: Key, size: int) -> None:
        """Raises AdapterMemoryError if an adapter of `size` bytes can never fit."""
        if self._max_bytes is not None and size > self._max_bytes:
            raise AdapterMemoryError(
                f"adapter {key[0]!r} takes {size} bytes on the device, where all together may take "
                f"engine.adapter_slot_bytes {self._max_bytes}"
            )

    def reserve(
        self, key: Key, size: int, wanted: Collection[Key], *, urgent: bool
    ) -> list[Key] | None:
        """Sets room aside for an adapter that is being placed; returns those who left for it, None
        if there is no room.

        Adapters that nobody uses leave for it, the least recently used first. Pinned ones and
        those that are `wanted` stay, unless it is `urgent` and the others are not enough.
        """
        free = [k for k, placed in self._placed.items() if placed.num_users == 0]
        if urgent:
            free.sort(key=lambda k: (k in self._pinned, k in wanted))
        else:
            free = [k for k in free if k not in wanted and k not in self._pinned]
        chosen: list[Key] = []
        while self._lacks(size, chosen):
            if len(chosen) == len(free):
                return None
            chosen.append(free[len(chosen)])
        for other in chosen:
            self.drop(other)
            self._tell(other, Tier.HOST)
        self._sizes[key] = size
        return chosen

    def abandon(self, key: Key) -> None:
        """Gives reserved room back."""
        del self._sizes[key]

    def adopt(self, placed: PlacedAdapter) -> None:
        """Takes in an adapter for which room was reserved."""
        self._num_adopted += 1
        placed.serial = self._num_adopted
        self._placed[placed.key] = placed
        # What was reserved was counted before there was anything to measure.
        self._sizes[placed.key] = sum(tensor.nbytes for tensor in tensors_of(placed))
        self._list()
        self._tell(placed.key, Tier.DEVICE)

    def acquire(self, key: Key) -> PlacedAdapter:
        """The adapter, which is there, with one more user."""
        placed = self._placed[key]
        self._placed.move_to_end(key)
        placed.num_users += 1
        return placed

    def release(self, placed: PlacedAdapter) -> None:
        """Takes back one use."""
        placed.num_users -= 1

    def drop(self, key: Key) -> None:
        """Empties the slot of an adapter that nobody uses, if it has one."""
        placed = self._placed.pop(key, None)
        if placed is not None:
            assert placed.num_users == 0
            del self._sizes[key]
            self._list()
            self._on_dropped(placed)

    def pin(self, key: Key, pinned: bool) -> None:
        """Keeps an adapter where it is, once it is there, while others can make room."""
        (self._pinned.add if pinned else self._pinned.discard)(key)

    def check_integrity(self, used: Sequence[PlacedAdapter], reserved: Collection[Key]) -> None:
        """Raises AssertionError unless `used` are all uses there are, and room is set aside for
        `reserved`."""
        assert self._sizes.keys() == {*self._placed, *reserved}
        assert not self._placed.keys() & set(reserved)
        assert len(self._sizes) <= self._num_slots
        for key, placed in self._placed.items():
            count = sum(other is placed for other in used)
            assert placed.num_users == count, f"{key}: {placed.num_users} users, {count} found"
        placed_ids = {id(placed) for placed in self._placed.values()}
        assert all(id(other) in placed_ids for other in used), "an evicted adapter is in use"

    def _lacks(self, size: int, leaving: Sequence[Key]) -> bool:
        if len(self._sizes) - len(leaving) >= self._num_slots:
            return True
        if self._max_bytes is None:
            return False
        taken = self.num_bytes - sum(self._sizes[key] for key in leaving)
        return taken + size > self._max_bytes

    def _list(self) -> None:
        self.keys = tuple(sorted(self._placed))

    def _tell(self, key: Key, tier: Tier) -> None:
        self._on_change(AdapterEvent(AdapterChange.TIER, *key, tier, time.time()))
