"""Where adapter versions are, and what happens to them."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Tier(Enum):
    """Where a version's tensors are: the fastest of the places that hold them."""

    DISK = "disk"
    HOST = "host"
    DEVICE = "device"


class AdapterChange(Enum):
    """What happened to an adapter version."""

    LOADED = "loaded"
    """It was read into host memory."""
    UNLOADED = "unloaded"
    """It was taken out of service by request. Requests that hold it run on."""
    TIER = "tier"
    """It went to another tier: placed in a device slot, evicted from it, or gone from memory."""
    ALIAS = "alias"
    """A name points to it from now on."""
    PINNED = "pinned"
    """It was pinned, or let go."""


@dataclass(frozen=True, slots=True)
class AdapterEvent:
    """One change of one adapter version. Events of one version come in order."""

    kind: AdapterChange
    name: str
    version: str
    """Empty where an alias was removed."""
    tier: Tier
    """Where it is after the change."""
    at: float
    """Seconds since the epoch."""
    alias: str = ""
    """Of ALIAS: which alias; empty for the bare name."""
    pinned: bool = False
    """Of PINNED: whether it is pinned now."""


class AdapterObserver(Protocol):
    """Is told of changes, by whichever thread makes them, some under a lock.

    Must not block, raise, or call back into whoever tells it.
    """

    def __call__(self, event: AdapterEvent) -> None:
        """A change happened."""


def unobserved(event: AdapterEvent) -> None:
    """The observer where nobody listens."""


@dataclass(frozen=True, slots=True)
class ResidentAdapter:
    """A version in host memory, for metrics."""

    name: str
    rank: int
    """0 without low-rank updates."""
    size_bytes: int
    on_device: bool
    """In a device slot, too."""
    pinned: bool
    last_used_at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class AdapterStats:
    """What adapters hold of host memory now."""

    num_host: int
    """Versions in host memory."""
    host_bytes: int
    num_leases: int


@dataclass(frozen=True, slots=True)
class Residency:
    """Which adapters are where now, for metrics."""

    residents: tuple[ResidentAdapter, ...] = ()
    num_leases: int = 0
    num_slots: int = 0
    """Adapters that fit on the device."""
    num_disk: int = 0
    """Versions in the store."""
    disk_bytes: int = 0
    """Of their tensor files."""
