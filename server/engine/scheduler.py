"""Who runs in a step, under three budgets: rows, cache blocks and adapter slots."""

import time
from collections.abc import Callable, Iterable

from server.config import EngineConfig
from server.engine.kv_cache import BlockPool, KVCache
from server.engine.prefetch import Prefetcher
from server.engine.prefix_cache import PrefixCache
from server.engine.sequence import Chunk, Sequence
from server.engine.waiting import WaitingQueue


class Scheduler:
    """Owns the sequences, their blocks and their slots.

    Running sequences keep their place in every step; waiting ones join as `WaitingQueue` says, and
    nobody overtakes a sequence that waits for blocks. When blocks run out, the last by its rank
    loses its blocks and computes again later. Whose adapter is being placed holds up nobody.
    `on_failed` is told of a sequence whose adapter cannot be placed, or whose admission `refuse`
    gives a reason against, and must remove it. `clock` counts seconds.
    """

    def __init__(
        self,
        config: EngineConfig,
        pool: BlockPool,
        cache: KVCache,
        prefixes: PrefixCache,
        adapters: Prefetcher,
        on_preempted: Callable[[Sequence], None],
        on_failed: Callable[[Sequence, Exception], None],
        refuse: Callable[[Sequence], Exception | None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._pool = pool
        self._cache = cache
        self._prefixes = prefixes
        self._adapters = adapters
        self._on_preempted = on_preempted
        self._on_failed = on_failed
        self._refuse = refuse
        self._clock = clock
        self._waiting = WaitingQueue(config.max_wait_s, config.max_queue_size)
        self._running: list[Sequence] = []

    @property
    def num_running(self) -> int:
        """Sequences in the batch."""
        return len(self._running)

    @property
    def sequences(self) -> list[Sequence]:
        """All of them, waiting and running."""
        return [*self._waiting, *self._running]

    def add(self, sequence: Sequence) -> None:
        """Takes a new sequence. Its positions must fit the whole pool."""
        self._adapters.want(sequence)
        self._waiting.add(sequence, self._clock())

    def remove(self, sequence: Sequence) -> None:
        """Drops a sequence wherever it is, with its blocks and slot. Unknown ones are ignored."""
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
        self._release(sequence)
        self._adapters.unwant(sequence)

    def fork(self, parent: Sequence, children: Iterable[Sequence]) -> None:
        """Replaces a computed sequence by others that begin with its positions and share its
        full blocks; a block that is partly filled is copied, or computed again if none is
        free."""
        block_size = self._config.block_size
        num_full, rest = divmod(parent.num_computed, block_size)
        full, copies = parent.blocks[:num_full], []
        try:
            for child in children:
                child.claim, child.share = parent.claim, parent.share
                child.queued_s = parent.queued_s
                self._pool.share(full)
                child.blocks = list(full)
                child.num_computed = num_full * block_size
                child.keys = parent.keys[: num_full + 1]
                if rest and self._pool.can_allocate(1):
                    copy = self._pool.allocate(1)
                    child.blocks += copy
                    child.num_computed += rest
                    copies += copy
                self.add(child)
            if copies:
                self._cache.copy(parent.blocks[num_full], copies)
        finally:
            # Its request knows only the children from here on, and could not remove it.
            self.remove(parent)

    def schedule(self) -> list[Chunk]:
        """The chunks of the next step; empty if there is nothing to do until an adapter is
        placed."""
        for sequence, error in self._adapters.collect():
            self._on_failed(sequence, error)
        chunks: dict[Sequence, Chunk] = {}
        budget, now = self._config.max_step_tokens, self._clock()
        # Decoding first: a long prompt must not stall those who are talking.
        for sequence in sorted(
            self._running, key=lambda s: (s.num_remaining > 1, self._waiting.rank(s, now))
        ):
            if budget == 0 or sequence not in self._running:
                continue
            if sequence.num_remaining > 1:
                # Another may have computed the same since the last step.
                self._prefixes.reuse(sequence)
            count = min(sequence.num_remaining, budget)
            budget += self._make_room(sequence, count, chunks, now)
            if sequence in self._running:
                chunks[sequence] = self._chunk(sequence, count)
                budget -= count
        while budget > 0 and len(self._running) < self._config.max_batch_size:
            candidate = self._next(now)
            if candidate is None or not self._can_admit(candidate, now):
                break
            sequence = candidate
            self._adapters.acquire(sequence)
            self._prefixes.begin(sequence)
            reason = self._refuse(sequence)
            if reason is not None:
                self._on_failed(sequence, reason)
                continue
            self._waiting.admit(sequence, now)
            self._running.append(sequence)
            chunks[sequence] = self._chunk(sequence, min(sequence.num_remaining, budget))
            budget -= chunks[sequence].count
        self._adapters.prefetch()
        self._waiting.charge(chunks.values())
        return list(chunks.values())

    def check_integrity(self) -> None:
        """Raises AssertionError unless every block and slot is accounted for."""
        everyone = self.sequences
        assert len(set(everyone)) == len(everyone), "a sequence is there twice"
        self._pool.check_integrity(sequence.blocks for sequence in everyone)
        self._adapters.check_integrity(everyone)
        self._waiting.check_integrity()
        assert all(s.placed is None for s in self._waiting), "a waiting sequence holds a slot"
        assert len(self._running) <= self._config.max_batch_size
        for sequence in everyone:
            capacity = len(sequence.blocks) * self._config.block_size
            assert sequence.num_computed <= min(capacity, sequence.num_positions)
            assert sequence.placed is None or sequence.num_computed >= sequence.num_given
            own = sequence.blocks[sequence.num_computed // self._config.block_size :]
            assert not any(map(self._pool.is_shared, own)), "a sequence writes to shared blocks"

    def _num_missing(self, sequence: Sequence, end: int) -> int:
        """Blocks that positions up to `end` need beyond those the sequence has."""
        return max(0, -(-end // self._config.block_size) - len(sequence.blocks))

    def _chunk(self, sequence: Sequence, count: int) -> Chunk:
        start = sequence.num_computed
        missing = self._num_missing(sequence, start + count)
        if missing:
            blocks = self._pool.allocate(missing)
            self._cache.reset(blocks)
            sequence.blocks += blocks
        return Chunk(sequence, start, count)

    def _next(self, now: float) -> Sequence | None:
        is_first = True

        def can_run(sequence: Sequence) -> bool:
            nonlocal is_first
            urgent, is_first = is_first, False
            return self._adapters.is_ready(sequence, urgent=urgent)

        return self._waiting.next(now, can_run, self._adapters.is_coming)

    def _can_admit(self, sequence: Sequence, now: float) -> bool:
        if not self._adapters.is_ready(sequence, urgent=False):
            return False
        while not self._fits(sequence) and not self._running:
            # Only forks that wait hold blocks now; without taking them nobody would ever run.
            holders = [s for s in self._waiting if s.blocks and s is not sequence]
            if not holders:
                self._preempt(sequence)
                break
            self._preempt(max(holders, key=lambda s: self._waiting.rank(s, now)))
        return self._fits(sequence)

    def _fits(self, sequence: Sequence) -> bool:
        # All known positions, not only the first chunk: else it would soon be preempted.
        missing = self._num_missing(sequence, sequence.num_positions)
        found = self._prefixes.find(sequence)
        return self._pool.can_allocate(max(0, missing - len(found)), keeping=found)

    def _make_room(
        self, sequence: Sequence, count: int, chunks: dict[Sequence, Chunk], now: float
    ) -> int:
        """Preempts the last by rank until `count` more positions fit, at worst `sequence`
        itself. Returns the rows given back by chunks that were scheduled already."""
        given_back = 0
        while sequence in self._running:
            missing = self._num_missing(sequence, sequence.num_computed + count)
            if self._pool.can_allocate(missing):
                break
            holders = [s for s in self._waiting if s.blocks] + self._running
            victim = max(holders, key=lambda s: self._waiting.rank(s, now))
            self._preempt(victim)
            chunk = chunks.pop(victim, None)
            given_back += chunk.count if chunk else 0
        return given_back

    def _preempt(self, sequence: Sequence) -> None:
        if sequence in self._running:
            self._running.remove(sequence)
            self._waiting.add(sequence, self._clock())
        self._release(sequence)
        sequence.num_lost = max(sequence.num_lost, sequence.num_computed)
        sequence.num_computed = 0
        self._on_preempted(sequence)

    def _release(self, sequence: Sequence) -> None:
        # The end of a prefix is of no use without its beginning: it goes first.
        self._pool.free(reversed(sequence.blocks))
        sequence.blocks = []
        self._adapters.release(sequence)
