"""What a server holds: its base, and adapters with their versions and changes."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from understudy.types.requests import WeightedAdapter


class Tier(StrEnum):
    """Where an adapter version's tensors are."""

    UNSPECIFIED = "unspecified"
    DISK = "disk"
    HOST = "host"
    DEVICE = "device"


class AdapterChange(StrEnum):
    """What happened to an adapter."""

    UNSPECIFIED = "unspecified"
    LOADED = "loaded"
    UNLOADED = "unloaded"
    TIER = "tier"
    ALIAS = "alias"
    PINNED = "pinned"
    RESIDENT = "resident"
    """It was in memory when the watch began."""
    SYNCED = "synced"
    """All that was in memory has been told; the adapter is empty."""


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """The adapter version that answered. An empty name is the bare base."""

    name: str
    version: str
    members: tuple[WeightedAdapter, ...] = ()
    """Of a sum: each member as `name@version`, with its weight."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a server holds: base, quantization, limits."""

    base_model: str
    base_fingerprint: str
    architecture: str
    quantization: str
    dtype: str
    device: str
    max_context_tokens: int
    vocab_size: int
    num_parameters: int
    resident_bytes: int
    int8_threshold: float
    deterministic: bool
    max_batch_size: int
    max_queue_size: int
    num_adapter_slots: int
    max_lora_rank: int
    server_version: str
    adapter_methods: tuple[str, ...]
    weight_form: str
    bos_token_id: int | None
    """The tokenizer's token that begins a text, also where it is not put there."""
    eos_token_id: int | None


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """One version of one adapter, as the server knows it."""

    name: str
    version: str
    method: str
    aliases: tuple[str, ...]
    tier: Tier
    pinned: bool
    rank: int
    num_virtual_tokens: int
    size_bytes: int
    num_leases: int
    loaded_at: datetime | None
    last_used_at: datetime | None
    base_fingerprint: str
    trained_quantization: str
    warnings: tuple[str, ...]
    current: bool = False
    """A request for the bare name gets this version."""


@dataclass(frozen=True, slots=True)
class AdapterDetails:
    """An adapter with its manifest (None for a plain PEFT directory) and evaluation results."""

    adapter: AdapterInfo
    manifest: dict[str, Any] | None
    evals: dict[str, Any]
    """Parsed results by file name."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The loaded version and the seconds it took."""

    adapter: AdapterInfo
    load_s: float


@dataclass(frozen=True, slots=True)
class AdapterEvent:
    """One change of an adapter's residency or aliases."""

    change: AdapterChange
    adapter: AdapterInfo
    """After the change. Without a version where an alias was removed."""
    at: datetime | None
    alias: str = ""
    """Of ALIAS: which one. Empty: what the bare name means."""
