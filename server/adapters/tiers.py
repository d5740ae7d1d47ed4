"""Which adapter versions are in memory, who holds them, and which go when room is needed.

Disk is the store; host memory is this class; device slots belong to the engine. A version leaves
host memory when it is unloaded, superseded or evicted, and nobody holds a lease on it. Loading a
new version of a name never touches the old one: requests in flight finish on theirs.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

from server.adapters.artifact import AdapterVersion, ArtifactLimits, load_artifact
from server.adapters.lease import AdapterLease, Resident
from server.adapters.names import Names
from server.adapters.residents import Key, Residents
from server.adapters.sources import resolve_source
from server.adapters.store import AdapterStore, Reference
from server.errors import AdapterNotFoundError, AdapterRefusedError
from server.metrics import Metrics
from server.types import (
    AdapterChange,
    AdapterObserver,
    AdapterStats,
    BaseInfo,
    unobserved,
)
from understudy.artifact import MANIFEST_FILE
from understudy.store import LATEST

Loader = Executor | None
"""In whose turn a version is read; None: at once."""


@dataclass(frozen=True, slots=True)
class TierLimits:
    """What the tiers may hold and read."""

    artifact: ArtifactLimits
    roots: tuple[Path, ...]
    """Folders that LoadAdapter's `source` may name, beside the store."""


class AdapterTiers:
    """The adapters of one server. Methods marked *blocking* read the disk; all are thread-safe."""

    def __init__(
        self,
        base: BaseInfo,
        store: AdapterStore,
        limits: TierLimits,
        metrics: Metrics,
        on_freed: Callable[[str, str], None],
        on_change: AdapterObserver = unobserved,
        on_pinned: Callable[[str, str, bool], None] = lambda *_: None,
        breathe: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_freed(name, version)` is called when a version has left host memory.

        It may run in the engine's thread (the last lease ends there) and must not block.
        `on_change` is told of what enters and leaves host memory, and of names;
        `on_pinned(name, version, pinned)` is called when a version is pinned, or let go;
        `breathe` every so often while one is read.
        """
        self.store = store
        self._base = base
        self._limits = limits
        self._metrics = metrics
        self._on_freed = on_freed
        self._breathe = breathe
        self._lock = threading.Lock()
        self._residents = Residents(
            limits.artifact.max_host_bytes, store, metrics, on_change, on_pinned
        )
        self._names = Names()
        # Held while an alias moves in the store and then here: the last one in is it in both.
        self._moving = threading.Lock()

    def try_acquire(self, reference: Reference) -> AdapterLease | None:
        """A lease on a version in memory; None if it is not there, or is named by an alias that was
        not looked up of late."""
        with self._lock:
            resident = self._find(reference)
            if resident is None or resident.retired:
                return None
            resident.num_leases += 1
            resident.last_used_at = time.time()
        adapter = resident.adapter
        return AdapterLease(adapter, lambda: self._release((adapter.name, adapter.version)))

    def prepare(self, reference: Reference) -> Reference:
        """The exact version a reference means, loaded into memory if it was not. *Blocking.*

        Raises AdapterNotFoundError with close names, AdapterRefusedError, AdapterMemoryError.
        """
        with self._lock:
            self._names.check(reference)
            resident = self._find(reference)
            if resident is not None and not resident.retired:
                return Reference(reference.name, resident.adapter.version)
        looked_up = self._names.now()
        version = self.resolve(reference)
        exact = Reference(reference.name, version)
        with self.store.holding(exact.name, version) as directory:
            self._install(self._read_stored(exact, directory), reference, looked_up=looked_up)
        return exact

    def look_up(self, reference: Reference) -> str:
        """As `resolve`, for those who would use it: a bare name means that from then on, if it is
        in memory. *Blocking.*

        Raises AdapterNotFoundError also for what was unloaded.
        """
        with self._lock:
            self._names.check(reference)
        looked_up = self._names.now()
        version = self.resolve(reference)
        with self._lock:
            self._names.check(reference)
            resident = self._residents.get(reference.name, version)
            if not reference.selector and resident is not None and not resident.retired:
                self._first_use(reference.name, version, looked_up)
        return version

    def resolve(self, reference: Reference) -> str:
        """The version a reference means, in memory or not. *Blocking.*

        What an alias means is remembered for `try_acquire`. Raises AdapterNotFoundError with close
        names.
        """
        looked_up = self._names.now()
        with self._lock:
            version = reference.selector or self._names.current(reference.name) or ""
            if (reference.name, version) in self._residents:
                return version
        stored = self.store.resolve(Reference(reference.name, version))
        stored = stored or self.store.resolve(reference)
        if stored is None:
            raise self.not_found(reference)
        if reference.selector not in ("", stored):
            with self._lock:
                name, alias = reference.name, reference.selector
                stored = self._names.looked_up(name, alias, stored, looked_up)
        return stored

    def load(self, name: str, source: str, pin: bool) -> Reference:
        """Loads a version and makes it the one that `name` means. *Blocking.*

        `source` is a directory (see `resolve_source`); empty: the newest version in the store.
        Raises as `prepare`, and InvalidRequestError for a source that is not allowed.
        """
        if source:
            roots = self._limits.roots + ((self.store.root,) if self.store.root else ())
            directory, root = resolve_source(source, roots)
            adapter = self._load(directory, name, root, "path")
            self._install(adapter, None, pin=pin, follow=False)
            return Reference(name, adapter.version)
        version = self.store.resolve(Reference(name))
        if version is None:
            raise self.not_found(Reference(name))
        exact = Reference(name, version)
        self._serve(exact, pin=pin)
        return exact

    def load_fetched(self, name: str, directory: Path, source: str, pin: bool) -> Reference:
        """Loads what was fetched from `source`. *Blocking.*

        `directory` may go afterwards; `keep_fetched` puts it into the store. Raises
        AdapterRefusedError, AdapterMemoryError.
        """
        adapter = self._load(directory, name, None, source.split("://", 1)[0])
        if adapter.manifest_json and self.store.root is not None:
            adapter = replace(adapter, directory=self.store.root / name / adapter.version)
        self._install(adapter, None, pin=pin, follow=False)
        return Reference(name, adapter.version)

    def keep_fetched(self, exact: Reference, directory: Path) -> None:
        """Publishes what `load_fetched` loaded, if it can. *Blocking*, and may wait for others who
        write to the store.

        Without a manifest, or a store that can be written, it stays in memory only.
        """
        sealed = (directory / MANIFEST_FILE).is_file()
        if not sealed or not self.store.publish(directory, exact.name):
            return
        key = exact.name, exact.selector
        with self._lock:
            resident = self._residents.get(*key)
            if resident is not None:
                self._residents.note_stored(resident)
            self._names.follow(*key)

    def unload(self, reference: Reference) -> int:
        """Takes a version out of service; returns how many requests still hold it. *Blocking.*

        Waits for nobody: its memory goes with the last lease. Raises AdapterNotFoundError.
        """
        version = self.resolve(reference)
        key = (reference.name, version)
        with self._lock:
            self._names.withdraw(reference, version)
            resident = self._residents.get(*key)
            num_leases = resident.num_leases if resident else 0
            self._residents.tell(AdapterChange.UNLOADED, key)
            freed = self._residents.retire(key)
        self._free(freed)
        return num_leases

    def pin(self, reference: Reference, pinned: bool) -> Reference:
        """Keeps a version in memory, loading it if need be, or lets it go. *Blocking.*

        Raises as `prepare`; AdapterRefusedError where the reference no longer means the version
        that is pinned.
        """
        with self._lock:
            self._names.check(reference)
        version = self.prepare(reference).selector if pinned else self.resolve(reference)
        with self._lock:
            self._residents.pin_named(reference, version, pinned)
        return Reference(reference.name, version)

    def set_alias(self, name: str, alias: str, version: str, loader: Loader = None) -> None:
        """Points an alias of the store at a version; an empty version removes it. *Blocking*, and
        may wait for others who write to the store: what is read is read on `loader`, which does
        not.

        Where the name is in service the version is read before anything changes, so that nobody
        waits for it afterwards. With `latest` the name means that version from then on. Raises as
        `AdapterStore.set_alias` and `load`; AdapterMemoryError when `latest` has moved, and the
        name stays what it was.
        """
        exact = Reference(name, version)
        with self._lock:
            in_service = bool(version) and self._names.current(name) is not None
            if alias != LATEST and self._names.is_withdrawn(exact):
                in_service = False
        with self._moving, contextlib.ExitStack() as stack:
            adapter = None
            if in_service:
                directory = stack.enter_context(self.store.holding(name, version))
                adapter = self._read_on(loader, exact, directory)
                if alias != LATEST:
                    self._install(adapter, exact)
            self.store.set_alias(name, alias, version)
            with self._lock:
                self._names.set_alias(name, alias, version)
                self._residents.tell(AdapterChange.ALIAS, (name, version), alias=alias)
            if adapter is not None and alias == LATEST:
                self._install(adapter, None)

    def behind(self) -> dict[str, str]:
        """Names in service of which the store has a newer version, and that version. *Blocking.*

        A look at a folder's time for each name. Names that LoadAdapter read from elsewhere stay
        what they are.
        """
        with self._lock:
            following = self._names.following()
        found = {name: self.store.resolve(Reference(name)) for name in sorted(following)}
        return {name: v for name, v in found.items() if v not in (None, following[name])}

    def follow(self, name: str, loader: Loader = None) -> Reference | None:
        """Makes a name mean what the store says now; the version if it is new. *Blocking*, and may
        wait for `set_alias`; read on `loader`.

        Raises as `load`.
        """
        with self._moving:
            version = self.store.resolve(Reference(name))
            with self._lock:
                if version in (None, self._names.following().get(name, version)):
                    return None
            exact = Reference(name, version or "")
            self._serve(exact, loader=loader)
            return exact

    def resident(self, name: str, version: str) -> Resident | None:
        """A version in memory; a copy, not live."""
        with self._lock:
            resident = self._residents.get(name, version)
            return None if resident is None else replace(resident)

    def current(self, name: str) -> str | None:
        """The version that a bare name means; empty if it was unloaded, None if nobody has asked
        for it yet: then it is the store's."""
        with self._lock:
            return "" if self._names.is_withdrawn(Reference(name)) else self._names.current(name)

    def residents(self) -> dict[Key, Resident]:
        """The versions in memory by (name, version); copies, not live."""
        with self._lock:
            return self._residents.copies()

    def stats(self) -> AdapterStats:
        """What host memory holds now."""
        with self._lock:
            return self._residents.stats()

    def not_found(self, reference: Reference) -> AdapterNotFoundError:
        """The error for an unknown reference, with the nearest known ones. *Blocking.*"""
        return self.store.not_found(reference, self.residents())

    def _find(self, reference: Reference) -> Resident | None:
        name = reference.name
        if reference.is_alias:
            version = self._names.pointed(name, reference.selector)
        else:
            version = reference.selector or self._names.current(name)
        return self._residents.get(name, version)

    def _serve(self, exact: Reference, *, pin: bool = False, loader: Loader = None) -> None:
        """Makes a name mean this version of the store."""
        with self.store.holding(exact.name, exact.selector) as directory:
            self._install(self._read_on(loader, exact, directory), None, pin=pin)

    def _read_on(self, loader: Loader, exact: Reference, directory: Path) -> AdapterVersion:
        if loader is not None:
            return loader.submit(self._read_stored, exact, directory).result()
        return self._read_stored(exact, directory)

    def _read_stored(self, exact: Reference, directory: Path) -> AdapterVersion:
        with self._lock:
            resident = self._residents.get(exact.name, exact.selector)
        if resident is not None:
            return resident.adapter
        adapter = self._load(directory, exact.name, None, "store")
        if adapter.version != exact.selector:
            raise AdapterRefusedError(
                f"adapter {str(exact)!r}: its files now hold another version, {adapter.version}"
            )
        return adapter

    def _load(self, directory: Path, name: str, root: Path | None, source: str) -> AdapterVersion:
        started = time.monotonic()
        try:
            adapter = load_artifact(
                directory, self._base, self._limits.artifact, name, root, self._breathe
            )
        except Exception:
            self._metrics.adapter_load_failed(source)
            raise
        self._metrics.adapter_loaded(source, time.monotonic() - started)
        return adapter

    def _install(
        self,
        adapter: AdapterVersion,
        wanted: Reference | None,
        *,
        looked_up: float = 0.0,
        pin: bool = False,
        follow: bool = True,
    ) -> None:
        """Puts a version in memory: for a request that named it as `wanted`, which was looked up at
        that time, or by LoadAdapter.

        Only without `wanted` does the name change what it means, and come back what was unloaded;
        it then means what the store says, if it is to `follow`.
        """
        name, version = adapter.name, adapter.version
        stored = version in self.store.versions(name)
        with self._lock:
            if wanted is not None:
                self._names.check(Reference(name, version))
                self._names.check(wanted)
            old = self._names.current(name)
            replaces = old if wanted is None else None
            freed = self._residents.make_room(adapter, replaces)
            resident = self._residents.enter(adapter, stored=stored)
            if pin:
                self._residents.pin(resident, True)
            if wanted is None:
                if self._names.move(name, version, follow=follow):
                    self._residents.tell(AdapterChange.ALIAS, (name, version))
            elif not wanted.selector:
                self._first_use(name, version, looked_up)
            superseded = self._residents.get(name, replaces)
            if superseded is not None and superseded is not resident and not superseded.pinned:
                freed += self._residents.retire((name, superseded.adapter.version))
        self._free(freed)

    def _first_use(self, name: str, version: str, looked_up: float) -> None:
        """A bare name means `version`, unless it means another one that is here."""
        if self._residents.get(name, self._names.current(name)) is None:
            self._names.used(name, version, looked_up)

    def _release(self, key: Key) -> None:
        with self._lock:
            freed = self._residents.release(key)
        self._free(freed)

    def _free(self, freed: list[Key]) -> None:
        for name, version in freed:
            self._on_freed(name, version)
