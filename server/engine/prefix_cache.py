"""Prefix caching: the states of a prefix are computed once and shared by all who begin with it.

A full block is keyed by the end of a chain of SHA-256 hashes, one a block. The chain starts from
the base and the adapter version, then takes each block's tokens; virtual tokens add nothing, since
the version says what they are. So equal keys mean equal states, and neither another version nor
another base can ever meet them. As with every prefix cache, the time to the first token tells
whether somebody sent the same prefix to the same adapter before.
"""

from array import array
from hashlib import sha256

from server.engine.kv_cache import BlockPool, KVCache, Owner
from server.engine.sequence import Chunk, Sequence


class PrefixCache:
    """Gives sequences blocks that were computed before, and keys those they compute.

    Full blocks are shared. A partly filled one, which its sequence goes on to write, is copied: the
    last block of virtual tokens, or the block in which the positions begin that must be computed.
    States that an adapter brings are written where no block holds them yet.
    """

    def __init__(
        self,
        base_fingerprint: str,
        block_size: int,
        pool: BlockPool,
        cache: KVCache,
        *,
        enabled: bool = True,
    ) -> None:
        self._base_fingerprint = base_fingerprint
        self._block_size = block_size
        self._pool = pool
        self._cache = cache
        self._enabled = enabled
        self._num_queries = 0
        self._num_hits = 0

    def begin(self, sequence: Sequence) -> None:
        """Gives a sequence that joins the batch what need not be computed: what its adapter brings,
        and what was computed before. Its blocks must fit."""
        self.reuse(sequence)
        if sequence.num_computed < sequence.num_given:
            self._write_given(sequence)

    def find(self, sequence: Sequence) -> list[int]:
        """The full blocks that `reuse` would share: those of the next positions."""
        found: list[int] = []
        if self._enabled:
            first = sequence.num_computed // self._block_size
            for index in range(first, _most(sequence) // self._block_size):
                block = self._pool.find(self._key(sequence, index + 1))
                if block is None:
                    break
                found.append(block)
        return found

    def reuse(self, sequence: Sequence) -> None:
        """Moves the sequence past the positions that are found. At least one remains to compute,
        and all that need logits."""
        if not self._enabled:
            return
        start = sequence.num_computed
        if start == 0:
            self._num_queries += sequence.num_positions - sequence.num_given
        found = self.find(sequence)
        if found:
            first = start // self._block_size
            self._pool.free(sequence.blocks[first:])
            self._pool.share(found)
            sequence.blocks[first:] = found
            sequence.num_computed = (first + len(found)) * self._block_size
        if sequence.num_computed % self._block_size == 0:
            self._copy_partial(sequence)
        self._num_hits += max(0, sequence.num_computed - max(start, sequence.num_given))
        # What was computed before a preemption did not come from others.
        start = max(start, sequence.num_lost, sequence.num_virtual)
        progress = sequence.answer.progress
        progress.num_cached_tokens += max(0, sequence.num_computed - start)

    def keep(self, chunk: Chunk) -> None:
        """Keys the blocks that a computed chunk filled."""
        if not self._enabled:
            return
        sequence, size = chunk.sequence, self._block_size
        end = chunk.start + chunk.count
        for index in range(chunk.start // size, end // size):
            key = self._key(sequence, index + 1)
            self._pool.add_key(sequence.blocks[index], key, _owner(sequence))
        if chunk.start < sequence.num_virtual <= end and sequence.num_virtual % size:
            self._keep_virtual(sequence)

    def take_counts(self) -> tuple[int, int]:
        """Positions that sequences brought, and those of them that were found, since last asked."""
        counts = self._num_queries, self._num_hits
        self._num_queries = self._num_hits = 0
        return counts

    def forget(self, owner: Owner) -> None:
        """Nobody meets the states of this adapter version again."""
        self._pool.forget(owner)

    def _copy_partial(self, sequence: Sequence) -> None:
        start, most = sequence.num_computed, _most(sequence)
        index = start // self._block_size
        source, count = None, 0
        if start < most and (index + 1) * self._block_size <= sequence.num_positions:
            source, count = self._pool.find(self._key(sequence, index + 1)), most - start
        if source is None and start < sequence.num_virtual:
            source = self._pool.find(self._virtual_key(sequence))
            count = min(most, sequence.num_virtual) - start
        if source is None or not 0 < count < self._block_size:
            return
        # Held meanwhile: allocating must not take it for itself.
        self._pool.share([source])
        if self._pool.can_allocate(1):
            blocks = self._pool.allocate(1)
            self._cache.copy(source, blocks, count)
            sequence.blocks += blocks
            sequence.num_computed += count
        self._pool.free([source])

    def _write_given(self, sequence: Sequence) -> None:
        """Writes the states that the adapter brings from the first block that was not found.

        Its full blocks can be found at once: they are written before any step reads them.
        """
        assert sequence.placed is not None
        assert sequence.placed.prefix is not None
        size, end = self._block_size, sequence.num_given
        first = sequence.num_computed // size
        blocks = self._pool.allocate(-(-end // size) - first)
        self._cache.write(blocks, sequence.placed.prefix[:, first * size :])
        sequence.blocks += blocks
        sequence.num_computed = end
        if self._enabled:
            for index in range(first, end // size):
                key = self._key(sequence, index + 1)
                self._pool.add_key(sequence.blocks[index], key, _owner(sequence))

    def _keep_virtual(self, sequence: Sequence) -> None:
        """Keeps a copy of the last virtual tokens' block without the text behind them."""
        key = self._virtual_key(sequence)
        if self._pool.find(key) is not None or not self._pool.can_allocate(1):
            return
        index, count = divmod(sequence.num_virtual, self._block_size)
        blocks = self._pool.allocate(1)
        try:
            self._cache.copy(sequence.blocks[index], blocks, count)
            self._cache.flush()
            self._pool.add_key(blocks[0], key, _owner(sequence))
        finally:
            self._pool.free(blocks)

    def _virtual_key(self, sequence: Sequence) -> bytes:
        """Key of the block that the virtual tokens fill partly."""
        return sha256(self._key(sequence, sequence.num_virtual // self._block_size)).digest()

    def _key(self, sequence: Sequence, count: int) -> bytes:
        """Key of the sequence's first `count` blocks, which must be known."""
        keys = sequence.keys
        if not keys:
            owner = _owner(sequence) or ()
            keys.append(sha256("\0".join((self._base_fingerprint, *owner)).encode()).digest())
        while len(keys) <= count:
            first = (len(keys) - 1) * self._block_size - sequence.num_virtual
            tokens = sequence.token_ids[max(0, first) : max(0, first + self._block_size)]
            keys.append(sha256(keys[-1] + array("q", tokens).tobytes()).digest())
        return keys[count]


def _most(sequence: Sequence) -> int:
    """Positions that may come from the cache."""
    return min(sequence.logits_from, sequence.num_positions - 1)


def _owner(sequence: Sequence) -> Owner:
    lease = sequence.answer.request.lease
    return None if lease is None else (lease.name, lease.version)
