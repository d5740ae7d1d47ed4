"""Fair shares: what each tenant, and each adapter of a tenant, has been served.

Virtual token counters (Sheng et al., Fairness in Serving Large Language Models, arXiv:2401.00588,
section 4), on two levels: places are shared between tenants, and a tenant's places between its
adapters. So a tenant gains nothing by naming many adapters, and within one tenant (all requests
that name none) a busy adapter does not hold up the others.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from server.engine.sequence import Sequence

# What a computed row counts, as in the paper. Rows that the prefix cache spares, and rows computed
# again after a preemption, count nothing.
PROMPT_WEIGHT = 1
GENERATED_WEIGHT = 2


@dataclass(eq=False, slots=True)
class Share:
    """The counter of a tenant, or of one adapter of a tenant (whose parent is the tenant's)."""

    parent: "Share | None" = None
    served: int = 0
    """Weighted rows of its requests, lifted where it was idle."""
    turn: int = 0
    """Number of its last admission; 0 before the first."""
    num_waiting: int = 0
    """Requests below it that wait."""
    last: "Share | None" = None
    """The one below it that was the last to stop waiting."""

    def charge(self, weight: int) -> None:
        """Adds to what it, and all above it, were served."""
        share: Share | None = self
        while share is not None:
            share.served += weight
            share = share.parent

    def lift(self, rivals: Iterable["Share"]) -> None:
        """Begins to wait beside `rivals`: time in which it asked for nothing earns no credit.

        Without rivals it is measured against the last one that waited.
        """
        assert self.parent is not None
        last = self.parent.last
        level = min((rival.served for rival in rivals), default=last.served if last else 0)
        self.served = max(self.served, level)

    def count_waiting(self, change: int) -> None:
        """Counts a request below it, and below all above it, that begins or ends its wait."""
        share: Share | None = self
        while share is not None:
            share.num_waiting += change
            if share.parent is not None and not share.num_waiting:
                share.parent.last = share
            share = share.parent


class ShareTable:
    """The shares by name. The longest unused are forgotten: clients choose the tenants' names."""

    def __init__(self, max_shares: int) -> None:
        """`max_shares` must exceed twice the requests that can wait at a time."""
        self._max_shares = max_shares
        self._root = Share()
        self._shares: OrderedDict[tuple[str, ...], Share] = OrderedDict()

    def __len__(self) -> int:
        return len(self._shares)

    def of(self, tenant: str, adapter: str) -> Share:
        """The share of an adapter's requests for a tenant."""
        share = self._get((tenant, adapter), self._get((tenant,), self._root))
        while len(self._shares) > self._max_shares:
            key, oldest = self._shares.popitem(last=False)
            if oldest.num_waiting or oldest is share:
                self._shares[key] = oldest
        return share

    def _get(self, key: tuple[str, ...], parent: Share) -> Share:
        share = self._shares.get(key)
        # A tenant that was forgotten has forgotten its adapters.
        if share is None or share.parent is not parent:
            share = self._shares[key] = Share(parent)
        self._shares.move_to_end(key)
        return share


class FairLine:
    """Sequences that wait at one priority: first come, first served within a share; of several
    the least served goes next, and of equally served ones the one whose last turn is longer ago.

    Finding the next costs time in proportion to the tenants that wait, plus the adapters of one.
    """

    def __init__(self) -> None:
        self._tenants: dict[Share, dict[Share, OrderedDict[Sequence, None]]] = {}

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def __iter__(self) -> Iterator[Sequence]:
        """All of them, share by share, each in its order."""
        for adapters in self._tenants.values():
            for queue in adapters.values():
                yield from queue

    def add(self, sequence: Sequence) -> None:
        """Puts a sequence behind all others of its share."""
        share, tenant = _shares(sequence)
        adapters = self._tenants.get(tenant)
        if adapters is None:
            tenant.lift(self._tenants)
            adapters = self._tenants[tenant] = {}
        queue = adapters.get(share)
        if queue is None:
            share.lift(adapters)
            queue = adapters[share] = OrderedDict()
        queue[sequence] = None
        share.count_waiting(1)

    def remove(self, sequence: Sequence) -> None:
        """Takes a sequence out."""
        share, tenant = _shares(sequence)
        adapters = self._tenants[tenant]
        del adapters[share][sequence]
        if not adapters[share]:
            del adapters[share]
            if not adapters:
                del self._tenants[tenant]
        share.count_waiting(-1)

    def next(self, can_run: Callable[[Sequence], bool]) -> Sequence | None:
        """The sequence whose turn it is; where it cannot run, the next one that can."""
        tenant = min(self._tenants, key=_turn)
        first = _head(self._tenants[tenant])
        if can_run(first):
            return first
        able: dict[Share, dict[Share, OrderedDict[Sequence, None]]] = {}
        for tenant, adapters in self._tenants.items():
            found = {s: queue for s, queue in adapters.items() if can_run(next(iter(queue)))}
            if found:
                able[tenant] = found
        return _head(able[min(able, key=_turn)]) if able else None


def _head(adapters: dict[Share, OrderedDict[Sequence, None]]) -> Sequence:
    return next(iter(adapters[min(adapters, key=_turn)]))


def _turn(share: Share) -> tuple[int, int]:
    return share.served, share.turn


def _shares(sequence: Sequence) -> tuple[Share, Share]:
    share = sequence.share
    assert share is not None
    assert share.parent is not None
    return share, share.parent
