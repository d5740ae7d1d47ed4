"""Sums of adapters: `w1 * update1 + w2 * update2 + ...` for one request, made when it is asked for.

Only low-rank updates and summands add up; the sum of the ranks is the rank of the sum, and PEFT's
`add_weighted_adapter(..., combination_type="cat")` computes the same.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

import torch

from server.adapters.lease import AdapterLease
from server.adapters.weights import (
    AdapterWeights,
    EmbeddingChange,
    LinearChange,
    LowRank,
    tensors_of,
)
from server.errors import AdapterMemoryError, InvalidRequestError
from understudy.prompt import PromptTemplate

Key = tuple[str, str]
VERSION_PREFIX = "sum-"
"""Of a sum's version: it is in no store."""
# Sums that the engine may still hold; beyond it the one asked for longest ago is let go.
_MAX_KNOWN = 1024


class SummedAdapter:
    """A sum of adapter versions. Requests for the same one share it."""

    def __init__(self, key: Key, weights: AdapterWeights) -> None:
        self.key = key
        self.weights = weights


@dataclass(frozen=True, slots=True)
class SumLease:
    """A request's hold on all adapters of a sum; implements `server.types.Lease`."""

    members: tuple[tuple[AdapterLease, float], ...]
    total: SummedAdapter

    @property
    def name(self) -> str:
        """The members' names, joined by `+`."""
        return self.total.key[0]

    @property
    def version(self) -> str:
        """Says which versions were summed with which weights."""
        return self.total.key[1]

    @property
    def num_virtual_tokens(self) -> int:
        """None: sums have no virtual tokens."""
        return 0

    @property
    def weights(self) -> AdapterWeights:
        """The sum's tensors in host memory."""
        return self.total.weights

    @property
    def template(self) -> PromptTemplate | None:
        """The first member's prompt template."""
        return self.members[0][0].template

    def release(self) -> None:
        """Ends the holds. Safe to call from any thread, and more than once."""
        for lease, _ in self.members:
            lease.release()


class AdapterSums:
    """Makes sums, and forgets those of versions that leave memory. Thread-safe."""

    def __init__(
        self, max_lora_rank: int, max_bytes: int, evict: Callable[[str, str], None]
    ) -> None:
        """`max_bytes` is what the sums of all open requests may take. `evict(name, version)` takes
        a sum from the engine; it must not block."""
        self._max_lora_rank = max_lora_rank
        self._max_bytes = max_bytes
        self._evict = evict
        self._lock = threading.Lock()
        # Bytes of sums that are being made.
        self._num_pending = 0
        self._alive: WeakValueDictionary[Key, SummedAdapter] = WeakValueDictionary()
        # The versions in each sum that the engine may hold, asked for longest ago first.
        self._known: OrderedDict[Key, frozenset[Key]] = OrderedDict()

    def acquire(self, members: Sequence[tuple[AdapterLease, float]]) -> SumLease:
        """The sum of leased versions with weights; the holds pass to it. *Takes a while.*

        Raises InvalidRequestError naming the member that cannot be summed, and AdapterMemoryError
        where requests hold too many other sums.
        """
        for i, (lease, _) in enumerate(members):
            reason = _why_not(lease.adapter.weights)
            if reason:
                raise InvalidRequestError(
                    f"adapters[{i}].adapter",
                    f"{lease.name!r} {reason}; only low-rank updates can be summed",
                )
        rank = sum(lease.adapter.rank for lease, _ in members)
        if rank > self._max_lora_rank:
            raise InvalidRequestError(
                "adapters",
                f"their ranks add up to {rank}, above this server's max_lora_rank "
                f"{self._max_lora_rank}",
            )
        key = _key(members)
        total = self._make(key, [(m.adapter.weights, w) for m, w in members])
        with self._lock:
            self._known[key] = frozenset((m.name, m.version) for m, _ in members)
            self._known.move_to_end(key)
            oldest = None
            if len(self._known) > _MAX_KNOWN:
                oldest, _ = self._known.popitem(last=False)
        if oldest is not None:
            self._evict(*oldest)
        return SumLease(tuple(members), total)

    def _make(self, key: Key, terms: Sequence[tuple[AdapterWeights, float]]) -> SummedAdapter:
        """The sum that other requests have, or a new one."""
        size = sum(_size(weights) for weights, _ in terms)
        with self._lock:
            total = self._alive.get(key)
            if total is not None:
                return total
            used = sum(other.weights.size_bytes for other in self._alive.values())
            if used + self._num_pending + size > self._max_bytes:
                raise AdapterMemoryError(
                    f"the sum {key[0]!r} needs {size} bytes; the sums of other requests take "
                    f"{used + self._num_pending} of the {self._max_bytes} that all may take"
                )
            self._num_pending += size
        try:
            total = SummedAdapter(key, _sum(terms))
            with self._lock:
                return self._alive.setdefault(key, total)
        finally:
            with self._lock:
                self._num_pending -= size

    def forget(self, name: str, version: str) -> None:
        """A version has left memory: so do the sums it is part of."""
        with self._lock:
            gone = [key for key, members in self._known.items() if (name, version) in members]
            for key in gone:
                del self._known[key]
        for key in gone:
            self._evict(*key)


def _key(members: Sequence[tuple[AdapterLease, float]]) -> Key:
    parts = [f"{lease.name}@{lease.version}*{weight!r}" for lease, weight in members]
    digest = hashlib.sha256("+".join(parts).encode()).hexdigest()[:16]
    return "+".join(lease.name for lease, _ in members), VERSION_PREFIX + digest


def _why_not(weights: AdapterWeights) -> str:
    """Why an adapter is no summand; empty if it is one."""
    if weights.num_virtual_tokens:
        return "has virtual tokens"
    plain = AdapterWeights(weights.linears, embedding=weights.embedding)
    if weights.norms or weights != plain:
        return "changes more than linears"
    for path, change in weights.linears.items():
        if change.magnitude is not None:
            return f"is DoRA, which scales {path!r} as a whole"
        if change != LinearChange(low_rank=change.low_rank, shift=change.shift):
            return f"changes {path!r} by more than a low-rank update"
    embedding = weights.embedding
    if embedding is not None and embedding != EmbeddingChange(embedding.low_rank):
        return "changes the input embeddings by more than a low-rank update"
    return ""


def _size(weights: AdapterWeights) -> int:
    """What a version takes as a part of a sum, which is in float32."""
    return sum(tensor.numel() for tensor in tensors_of(weights)) * torch.float32.itemsize


def _sum(terms: Sequence[tuple[AdapterWeights, float]]) -> AdapterWeights:
    changes: dict[str, list[tuple[LinearChange, float]]] = {}
    for weights, factor in terms:
        for path, change in weights.linears.items():
            changes.setdefault(path, []).append((change, factor))
    embeddings = [(w.embedding.low_rank, f) for w, f in terms if w.embedding is not None]
    update = _sum_updates(embeddings)
    return AdapterWeights(
        {path: _sum_changes(own) for path, own in changes.items()},
        embedding=None if update is None else EmbeddingChange(update),
    )


def _sum_changes(terms: Sequence[tuple[LinearChange, float]]) -> LinearChange:
    shifts = [change.shift.float() * factor for change, factor in terms if change.shift is not None]
    return LinearChange(
        _sum_updates([(change.low_rank, factor) for change, factor in terms]),
        shift=torch.stack(shifts).sum(0) if shifts else None,
    )


def _sum_updates(terms: Sequence[tuple[LowRank | None, float]]) -> LowRank | None:
    updates = [(update, factor) for update, factor in terms if update is not None]
    if not updates:
        return None
    return LowRank(
        torch.cat([update.a.float() for update, _ in updates]),
        torch.cat([update.b.float() * (update.scaling * f) for update, f in updates], dim=1),
        1.0,
    )
