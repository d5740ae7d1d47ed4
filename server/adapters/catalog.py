"""What the server knows of each adapter version, wherever it is: the view behind the wire."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from server.adapters.lease import Resident
from server.adapters.store import Reference
from server.adapters.tiers import AdapterTiers
from server.errors import AdapterNotFoundError
from server.types import Residency, ResidentAdapter, Tier
from understudy.artifact import ArtifactError, parse_json_object, read_text

_MAX_EVALS = 100


@dataclass(frozen=True, slots=True)
class AdapterStatus:
    """One version of one adapter. Times are seconds since the epoch, 0 where it is on disk."""

    name: str
    version: str
    method: str
    aliases: tuple[str, ...]
    tier: Tier
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


class Catalog:
    """Reads `tiers`, its store and the engine's slots. Every method reads the disk."""

    def __init__(
        self, tiers: AdapterTiers, slots: Callable[[], Collection[str]], num_slots: int
    ) -> None:
        """`slots` gives `name@version` of the adapters in the `num_slots` device slots."""
        self._tiers = tiers
        self._store = tiers.store
        self._slots = slots
        self._num_slots = num_slots

    def list(self, name_prefix: str = "") -> Iterator[AdapterStatus]:
        """Every version known, by name, newest first. Leaves out what is removed meanwhile."""
        residents, slots = self._tiers.residents(), frozenset(self._slots())
        names = {*self._store.names(), *(name for name, _ in residents)}
        for name in sorted(name for name in names if name.startswith(name_prefix)):
            stored = self._store.versions(name)
            elsewhere = sorted(
                (r for (n, v), r in residents.items() if n == name and v not in stored),
                key=lambda r: -r.loaded_at,
            )
            for version in [*(r.adapter.version for r in elsewhere), *stored]:
                with contextlib.suppress(AdapterNotFoundError):
                    yield self._status(name, version, residents.get((name, version)), slots)

    def status(self, exact: Reference) -> AdapterStatus:
        """One version, named exactly. Raises AdapterNotFoundError."""
        resident = self._tiers.residents().get((exact.name, exact.selector))
        return self._status(exact.name, exact.selector, resident, frozenset(self._slots()))

    def details(self, reference: Reference) -> AdapterDetails:
        """What GetAdapter answers. Raises AdapterNotFoundError with close names."""
        exact = Reference(reference.name, self._tiers.resolve(reference))
        status = self.status(exact)
        resident = self._tiers.residents().get((exact.name, exact.selector))
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
        )

    def _status(
        self, name: str, version: str, resident: Resident | None, slots: frozenset[str]
    ) -> AdapterStatus:
        aliases = self._store.aliases_of(name, version)
        if resident is not None:
            adapter = resident.adapter
            return AdapterStatus(
                name=name,
                version=version,
                method=adapter.method,
                aliases=aliases,
                tier=Tier.DEVICE if f"{name}@{version}" in slots else Tier.HOST,
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
            return AdapterStatus(name, version, "", aliases, Tier.DISK, warnings=warnings)
        return AdapterStatus(
            name=name,
            version=version,
            method=facts.method,
            aliases=aliases,
            tier=Tier.DISK,
            rank=facts.rank,
            num_virtual_tokens=facts.num_virtual_tokens,
            size_bytes=facts.size_bytes,
            base_fingerprint=facts.base_fingerprint,
            trained_quantization=facts.quantization,
        )


def _read_evals(folder: Path) -> dict[str, str]:
    """The JSON files of a version's `evals`; links, and files that are not JSON, are left out."""
    if folder.is_symlink() or not folder.is_dir():
        return {}
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.json"))[:_MAX_EVALS]:
        if path.is_symlink() or not path.is_file():
            continue
        try:
            text = read_text(path)
            parse_json_object(text, path.name)
        except ArtifactError:
            continue
        found[path.name] = text
    return found
