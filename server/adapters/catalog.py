"""What the server knows of each adapter version, wherever it is: the view behind the wire."""

import contextlib
import os
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from server.adapters.lease import Resident
from server.adapters.store import Reference
from server.adapters.tiers import AdapterTiers
from server.errors import AdapterNotFoundError
from server.types import Residency, ResidentAdapter, Tier
from understudy.artifact import ArtifactError, parse_json_object, read_text

Key = tuple[str, str]

# Versions that one page looks at, where filters leave out most: each may take a look at the disk.
MAX_LOOKS = 2000
# Evaluation results that are shown: a client takes no message of more than 4 MiB by default.
_MAX_EVALS = 100
_MAX_EVAL_BYTES = 1 << 20
_MAX_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class AdapterStatus:
    """One version of one adapter. Times are seconds since the epoch, 0 where it is on disk."""

    name: str
    version: str
    method: str
    aliases: tuple[str, ...]
    tier: Tier
    current: bool = False
    """What the bare name means."""
    pinned: bool = False
    rank: int = 0
    num_virtual_tokens: int = 0
    size_bytes: int = 0
    num_leases: int = 0
    loaded_at: float = 0.0
    last_used_at: float = 0.0
    base_fingerprint: str = ""
    trained_quantization: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AdapterDetails:
    """One adapter version with its manifest and its evaluation results, as JSON text."""

    status: AdapterStatus
    manifest_json: str
    evals_json: dict[str, str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which versions a list is to show."""

    name_prefix: str = ""
    method: str = ""
    """Empty: all."""
    tier: Tier | None = None
    """None: all."""


class Catalog:
    """Reads `tiers`, its store and the engine's slots. Every method reads the disk."""

    def __init__(
        self,
        tiers: AdapterTiers,
        slots: Callable[[], Collection[str]],
        num_slots: int,
        stored: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        """`slots` gives `name@version` of the adapters in the `num_slots` device slots, `stored`
        how many versions the store holds, and their bytes."""
        self._tiers = tiers
        self._store = tiers.store
        self._slots = slots
        self._num_slots = num_slots
        self._stored = stored

    def page(
        self, wanted: Wanted, after: Key | None, size: int
    ) -> tuple[list[AdapterStatus], Key | None]:
        """Up to `size` versions that are wanted, by name, newest first, from behind the version
        `after`; and the last one looked at, unless it was the last there is.

        If `after` is gone its name begins anew. Looks at no more than MAX_LOOKS versions, so the
        page may be short. Leaves out what is removed meanwhile.
        """
        found: list[AdapterStatus] = []
        slots, last = frozenset(self._slots()), None
        for num_looks, (key, resident) in enumerate(self._versions(wanted, after)):
            if last is not None and (len(found) == size or num_looks == MAX_LOOKS):
                return found, last
            last = key
            if wanted.tier in (None, _tier(key, resident, slots)):
                with contextlib.suppress(AdapterNotFoundError):
                    status = self._status(*key, resident, slots)
                    if wanted.method in ("", status.method):
                        found.append(status)
        return found, None

    def status(self, exact: Reference) -> AdapterStatus:
        """One version, named exactly. Raises AdapterNotFoundError."""
        resident = self._tiers.resident(exact.name, exact.selector)
        return self._status(exact.name, exact.selector, resident, frozenset(self._slots()))

    def _versions(self, wanted: Wanted, after: Key | None) -> Iterator[tuple[Key, Resident | None]]:
        """The versions of the wanted names from behind `after`, in order."""
        by_name: dict[str, dict[str, Resident]] = {}
        for (name, version), resident in self._tiers.residents().items():
            by_name.setdefault(name, {})[version] = resident
        in_memory_only = wanted.tier in (Tier.HOST, Tier.DEVICE)
        names = [] if in_memory_only else self._store.names()
        names = sorted({*names, *by_name})
        begin = max(wanted.name_prefix, after[0] if after is not None else "")
        for name in names[bisect_left(names, begin) :]:
            if not name.startswith(wanted.name_prefix):
                return
            residents = by_name.get(name, {})
            stored = [] if in_memory_only and not residents else self._store.versions(name)
            elsewhere = sorted(residents.keys() - set(stored))
            elsewhere.sort(key=lambda version: -residents[version].loaded_at)
            versions = [*elsewhere, *stored]
            if after is not None and name == after[0] and after[1] in versions:
                versions = versions[versions.index(after[1]) + 1 :]
            for version in versions:
                yield (name, version), residents.get(version)

    def details(self, reference: Reference) -> AdapterDetails:
        """What GetAdapter answers. Raises AdapterNotFoundError with close names."""
        exact = Reference(reference.name, self._tiers.resolve(reference))
        status = self.status(exact)
        resident = self._tiers.resident(exact.name, exact.selector)
        if resident is not None:
            directory, manifest_json = resident.adapter.directory, resident.adapter.manifest_json
        else:
            directory = self._store.directory(exact.name, exact.selector)
            manifest = self._store.manifest(exact.name, exact.selector)
            manifest_json = manifest.to_json() if manifest else ""
        return AdapterDetails(status, manifest_json, _read_evals(directory / "evals"))

    def residency(self) -> Residency:
        """What the tiers hold now, for metrics. Reads no disk."""
        slots, residents = frozenset(self._slots()), self._tiers.residents().values()
        num_disk, disk_bytes = self._stored()
        return Residency(
            residents=tuple(
                ResidentAdapter(
                    name=resident.adapter.name,
                    rank=resident.adapter.rank,
                    size_bytes=resident.adapter.size_bytes,
                    on_device=f"{resident.adapter.name}@{resident.adapter.version}" in slots,
                    pinned=resident.pinned,
                    last_used_at=resident.last_used_at,
                )
                for resident in residents
            ),
            num_leases=sum(resident.num_leases for resident in residents),
            num_slots=self._num_slots,
            num_disk=num_disk,
            disk_bytes=disk_bytes,
        )

    def _is_current(self, name: str, version: str) -> bool:
        current = self._tiers.current(name)
        return version == (self._store.resolve(Reference(name)) if current is None else current)

    def _status(
        self, name: str, version: str, resident: Resident | None, slots: frozenset[str]
    ) -> AdapterStatus:
        aliases = self._store.aliases_of(name, version)
        current = self._is_current(name, version)
        if resident is not None:
            adapter = resident.adapter
            return AdapterStatus(
                name=name,
                version=version,
                method=adapter.method,
                aliases=aliases,
                tier=_tier((name, version), resident, slots),
                current=current,
                pinned=resident.pinned,
                rank=adapter.rank,
                num_virtual_tokens=adapter.num_virtual_tokens,
                size_bytes=adapter.size_bytes,
                num_leases=resident.num_leases,
                loaded_at=resident.loaded_at,
                last_used_at=resident.last_used_at,
                base_fingerprint=adapter.base_fingerprint,
                trained_quantization=adapter.trained_quantization,
                warnings=adapter.warnings,
            )
        facts = self._store.facts(name, version)
        if facts is None:
            warnings = ("its manifest cannot be read",)
            return AdapterStatus(name, version, "", aliases, Tier.DISK, current, warnings=warnings)
        return AdapterStatus(
            name=name,
            version=version,
            method=facts.method,
            aliases=aliases,
            tier=Tier.DISK,
            current=current,
            rank=facts.rank,
            num_virtual_tokens=facts.num_virtual_tokens,
            size_bytes=facts.size_bytes,
            base_fingerprint=facts.base_fingerprint,
            trained_quantization=facts.quantization,
        )


def _tier(key: Key, resident: Resident | None, slots: Collection[str]) -> Tier:
    if resident is None:
        return Tier.DISK
    return Tier.DEVICE if f"{key[0]}@{key[1]}" in slots else Tier.HOST


def _read_evals(folder: Path) -> dict[str, str]:
    """The JSON files of a version's `evals`, by name, as far as they fit; links, and files that are
    not JSON, are left out."""
    if folder.is_symlink() or not folder.is_dir():
        return {}
    found: dict[str, str] = {}
    left = _MAX_EVAL_BYTES
    with os.scandir(folder) as entries:
        names = [e.name for e in islice(entries, _MAX_ENTRIES) if _is_eval(e)]
    for name in sorted(names)[:_MAX_EVALS]:
        try:
            text = read_text(folder / name)
            size = len(text.encode())
            if size > left:
                continue
            left -= size
            parse_json_object(text, name)
        except ArtifactError:
            continue
        found[name] = text
    return found


def _is_eval(entry: "os.DirEntry[str]") -> bool:
    """Also that its name is one: UTF-8, or no message could hold it."""
    name = entry.name
    return name.endswith(".json") and name.isprintable() and entry.is_file(follow_symlinks=False)
