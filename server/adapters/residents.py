"""The versions in host memory: how many bytes they take, and which go when room is needed."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from server.adapters.artifact import AdapterVersion
from server.adapters.lease import Resident
from server.adapters.store import AdapterStore, Reference
from server.errors import AdapterMemoryError, AdapterNotFoundError, AdapterRefusedError
from server.metrics import Metrics
from server.types import AdapterChange, AdapterEvent, AdapterObserver, AdapterStats, Tier

Key = tuple[str, str]


class Residents:
    """What `AdapterTiers` has in memory. Every method is called under its lock, so that events come
    in the order of what they tell."""

    def __init__(
        self,
        max_bytes: int,
        store: AdapterStore,
        metrics: Metrics,
        on_change: AdapterObserver,
        on_pinned: Callable[[str, str, bool], None],
    ) -> None:
        self._max_bytes = max_bytes
        self._store = store
        self._metrics = metrics
        self._on_change = on_change
        self._on_pinned = on_pinned
        self._by_key: dict[Key, Resident] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._by_key

    def __getitem__(self, key: Key) -> Resident:
        return self._by_key[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._by_key)

    def get(self, name: str, version: str | None) -> Resident | None:
        """A version, if it is here."""
        return self._by_key.get((name, version or ""))

    def copies(self) -> dict[Key, Resident]:
        """All of them, not live."""
        return {key: replace(resident) for key, resident in self._by_key.items()}

    def stats(self) -> AdapterStats:
        """What they come to."""
        residents = self._by_key.values()
        return AdapterStats(
            num_host=len(residents),
            host_bytes=sum(resident.adapter.size_bytes for resident in residents),
            num_leases=sum(resident.num_leases for resident in residents),
        )

    def enter(self, adapter: AdapterVersion, *, stored: bool) -> Resident:
        """A version as one in service, there before or not. `stored`: the store has it too."""
        key = adapter.name, adapter.version
        resident = self._by_key.get(key)
        if resident is None:
            now = time.time()
            resident = Resident(adapter, stored and self._store.hold(*key), now, now)
            self._by_key[key] = resident
            self.tell(AdapterChange.LOADED, key)
        elif stored:
            self.note_stored(resident)
        if resident.retired:
            # Its last leases kept it in memory: in service again, it is not read again.
            resident.retired = False
            self.tell(AdapterChange.LOADED, key)
        return resident

    def note_stored(self, resident: Resident) -> None:
        """The store has it too, maybe only since it was read: it can make room from now on."""
        if not resident.stored:
            resident.stored = self._store.hold(resident.adapter.name, resident.adapter.version)

    def make_room(self, adapter: AdapterVersion, old: str | None) -> list[Key]:
        """Drops idle versions until `adapter` fits, and returns them: the one it replaces, then the
        least recent.

        What the store does not hold could not come back, and stays until it is unloaded. Raises
        AdapterMemoryError.
        """
        if (adapter.name, adapter.version) in self._by_key:
            return []
        used = sum(resident.adapter.size_bytes for resident in self._by_key.values())
        excess = used + adapter.size_bytes - self._max_bytes
        idle = [
            (key != (adapter.name, old), resident.last_used_at, key)
            for key, resident in self._by_key.items()
            if not resident.num_leases
            and not resident.pinned
            and (resident.stored or key == (adapter.name, old))
        ]
        chosen: list[Key] = []
        for _, _, key in sorted(idle):
            if excess <= 0:
                break
            excess -= self._by_key[key].adapter.size_bytes
            chosen.append(key)
        if excess > 0:
            raise AdapterMemoryError(
                f"adapter {adapter.name!r} needs {adapter.size_bytes} bytes; of the "
                f"{self._max_bytes} for adapters, {excess} too few are free or idle"
            )
        for _ in chosen:
            self._metrics.adapter_evicted(Tier.HOST)
        return [freed for key in chosen for freed in self.retire(key)]

    def retire(self, key: Key) -> list[Key]:
        """Takes a version out of service. If nobody holds it, it leaves and is returned."""
        resident = self._by_key.get(key)
        if resident is None:
            return []
        resident.retired = True
        if resident.num_leases:
            return []
        del self._by_key[key]
        if resident.stored:
            self._store.let_go(*key)
        self.tell(AdapterChange.TIER, key)
        return [key]

    def release(self, key: Key) -> list[Key]:
        """One lease less; the version leaves with its last one if it is out of service."""
        resident = self._by_key[key]
        resident.num_leases -= 1
        return self.retire(key) if resident.retired else []

    def pin(self, resident: Resident, pinned: bool) -> None:
        """Keeps a version from making room, or lets it go."""
        if resident.pinned != pinned:
            resident.pinned = pinned
            key = (resident.adapter.name, resident.adapter.version)
            self._on_pinned(*key, pinned)
            self.tell(AdapterChange.PINNED, key, pinned=pinned)

    def pin_named(self, asked: Reference, version: str, pinned: bool) -> None:
        """As `pin`, of the version that `asked` means.

        Raises AdapterNotFoundError if what is to be pinned is not here, AdapterRefusedError if an
        alias or a bare name is to let go what was pinned under it when it meant another version.
        """
        resident = self.get(asked.name, version)
        if resident is None and pinned:
            raise AdapterNotFoundError(f"{asked.name}@{version}")
        if resident is not None and (pinned or resident.pinned):
            self.pin(resident, pinned)
        elif asked.selector != version:
            others = [
                f"{n}@{v}" for (n, v), r in self._by_key.items() if n == asked.name and r.pinned
            ]
            if others:
                raise AdapterRefusedError(
                    f"adapter {str(asked)!r} means version {version} now, which is not pinned; "
                    f"name what to let go: {', '.join(others)}"
                )

    def tell(self, kind: AdapterChange, key: Key, *, alias: str = "", pinned: bool = False) -> None:
        """Tells the observer of a change of a version or a name."""
        tier = Tier.HOST if key in self._by_key else Tier.DISK
        self._on_change(AdapterEvent(kind, *key, tier, time.time(), alias, pinned))
