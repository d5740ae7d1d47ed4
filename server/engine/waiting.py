"""Who waits for a place in the batch, and who gets the next one."""

import itertools
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from server.engine.fairness import GENERATED_WEIGHT, PROMPT_WEIGHT, FairLine, ShareTable
from server.engine.limits import request_label
from server.engine.sequence import Chunk, Sequence

# Idle tenants and adapters whose counters are remembered.
_MAX_IDLE_SHARES = 4096


def _claim_order(sequence: Sequence) -> tuple[int, int, int]:
    priority, _, index = sequence.order
    return priority, sequence.claim, index


class WaitingQueue:
    """The sequences that wait.

    Higher priorities go first. Of equal ones, a sequence that ran before or whose request did (it
    was preempted, or forked) goes first: it keeps the claim it had. The others share places fairly
    (`server.engine.fairness`).

    Whoever has waited for `max_wait_s` is overdue, and every second place goes to the oldest such
    one, whatever its priority and share. Not every place: a backlog older than `max_wait_s` would
    else hold up everybody who comes later. While the oldest cannot run on its turn, nobody else
    gets a place, unless its adapter is on the way. So a sequence with `n` older ones before it is
    admitted within `2 * n + 2` places after it became overdue, not counting those that are given
    away while an adapter is on the way. Not thread-safe.
    """

    def __init__(self, max_wait_s: float, max_waiting: int) -> None:
        """`max_waiting`: requests that can wait at a time. Times are on one clock, in seconds."""
        self._max_wait_s = max_wait_s
        self._shares = ShareTable(2 * max_waiting + _MAX_IDLE_SHARES)
        # Those that never ran, in order of arrival, and the same by priority.
        self._new: OrderedDict[Sequence, None] = OrderedDict()
        self._lines: dict[int, FairLine] = {}
        # Those with a claim: few, as only a batch and its forks can have one.
        self._claimants: list[Sequence] = []
        self._claims = itertools.count(1)
        self._is_turn_of_overdue = True

    def __len__(self) -> int:
        return len(self._new) + len(self._claimants)

    def __iter__(self) -> Iterator[Sequence]:
        return itertools.chain(self._claimants, self._new)

    def add(self, sequence: Sequence, now: float) -> None:
        """Takes a sequence, at the place of its claim if it has one."""
        if sequence.claim:
            insort(self._claimants, sequence, key=_claim_order)
            return
        request = sequence.answer.request
        sequence.queued_s = now
        sequence.share = self._shares.of(request.tenant, request_label(request))
        self._new[sequence] = None
        self._lines.setdefault(request.priority, FairLine()).add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Takes a sequence out. One that does not wait is ignored."""
        if sequence in self._new:
            del self._new[sequence]
            priority = sequence.answer.request.priority
            line = self._lines[priority]
            line.remove(sequence)
            if not line:
                del self._lines[priority]
        elif sequence in self._claimants:
            self._claimants.remove(sequence)

    def next(
        self,
        now: float,
        can_run: Callable[[Sequence], bool],
        is_coming: Callable[[Sequence], bool] = lambda _: False,
    ) -> Sequence | None:
        """Who gets the next place: nobody, if None; nobody else, if it cannot have it.

        `can_run` tells whether a sequence's adapter can be had, and `is_coming`, where it cannot,
        whether it is on the way. Those whose adapter cannot be had are passed over, until they are
        overdue and it is not on the way either. Whose turn it is, is the first that `can_run` is
        asked about.
        """
        if self._is_turn_of_overdue:
            overdue = self._oldest_overdue(now)
            if overdue is not None and (can_run(overdue) or not is_coming(overdue)):
                return overdue
        priorities = {-sequence.order[0] for sequence in self._claimants}.union(self._lines)
        for priority in sorted(priorities, reverse=True):
            for sequence in self._claimants:
                if sequence.order[0] == -priority and can_run(sequence):
                    return sequence
            line = self._lines.get(priority)
            found = line.next(can_run) if line else None
            if found is not None:
                return found
        return None

    def admit(self, sequence: Sequence, now: float) -> None:
        """Takes out a sequence that runs from now on and counts the prompt it has to compute."""
        self._is_turn_of_overdue = sequence is not self._oldest_overdue(now)
        self.remove(sequence)
        share = sequence.share
        assert share is not None
        if not sequence.claim:
            sequence.claim = next(self._claims)
            assert share.parent is not None
            share.turn = share.parent.turn = sequence.claim
        if not sequence.decode_from:
            share.charge(PROMPT_WEIGHT * sequence.num_remaining)
        sequence.decode_from = sequence.num_positions

    def charge(self, chunks: Iterable[Chunk]) -> None:
        """Counts the generated tokens among the rows of a step."""
        for chunk in chunks:
            if chunk.is_decode and chunk.sequence.share is not None:
                chunk.sequence.share.charge(GENERATED_WEIGHT * chunk.count)

    def rank(self, sequence: Sequence, now: float) -> tuple[int, int, int, int]:
        """Smaller keeps its blocks longer: of those that have run, waiting or not."""
        priority, number, index = sequence.order
        if now - sequence.queued_s >= self._max_wait_s:
            return 0, 0, number, index
        return 1, priority, sequence.claim, index

    def check_integrity(self) -> None:
        """Raises AssertionError unless every sequence waits in the one place it belongs."""
        lined = [sequence for line in self._lines.values() for sequence in line]
        assert len(lined) == len(self._new), "a new sequence is in no line, or in two"
        assert set(lined) == set(self._new)
        assert all(self._lines.values()), "an empty line"
        numbers = [sequence.order[1:] for sequence in self._new]
        assert numbers == sorted(numbers), "new sequences are out of order"
        assert self._claimants == sorted(self._claimants, key=_claim_order)
        assert not any(sequence.claim or sequence.blocks for sequence in self._new)
        assert all(sequence.claim for sequence in self._claimants)

    def _oldest_overdue(self, now: float) -> Sequence | None:
        oldest = min(
            itertools.chain(self._claimants, itertools.islice(self._new, 1)),
            key=lambda sequence: sequence.order[1:],
            default=None,
        )
        if oldest is None or now - oldest.queued_s < self._max_wait_s:
            return None
        return oldest
