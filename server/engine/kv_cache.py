"""The paged cache of keys and values: who owns which block, and the tensors themselves."""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable

import torch

from server.models.decoder import CacheShape

# Never owned: padding of block tables points to it.
NULL_BLOCK = 0

Owner = tuple[str, str] | None
"""Whose states a keyed block holds: (name, version) of an adapter; None is the bare base."""


class BlockPool:
    """Reference-counted block numbers 1 .. num_blocks, found again by key. Not thread-safe.

    A block with a key stays findable when nobody holds it any more, until it is needed: blocks
    without a key are allocated first, then the one that was freed longest ago.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = deque(range(1, num_blocks + 1))
        self._references: dict[int, int] = {}
        self._keys: dict[int, tuple[bytes, Owner]] = {}
        self._by_key: dict[bytes, int] = {}
        self._by_owner: dict[Owner, set[int]] = {}
        # Blocks with a key that nobody holds, freed longest ago first.
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def num_free(self) -> int:
        """Blocks that `allocate` can give, cached ones among them."""
        return len(self._free) + len(self._cached)

    @property
    def num_used(self) -> int:
        """Blocks that somebody holds."""
        return len(self._references)

    @property
    def num_cached(self) -> int:
        """Blocks that nobody holds, but can be found by their key."""
        return len(self._cached)

    def can_allocate(self, count: int, keeping: Iterable[int] = ()) -> bool:
        """Whether `allocate(count)` would succeed, once the blocks `keeping` were shared."""
        return count <= self.num_free - sum(block in self._cached for block in keeping)

    def allocate(self, count: int) -> list[int]:
        """Takes blocks, each with one reference. Requires `can_allocate(count)`."""
        while len(self._free) < count:
            self._drop_key(next(iter(self._cached)))
        blocks = [self._free.popleft() for _ in range(count)]
        self._references.update(dict.fromkeys(blocks, 1))
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """Adds a reference to each block, held or found by its key."""
        for block in blocks:
            if block in self._references:
                self._references[block] += 1
            else:
                del self._cached[block]
                self._references[block] = 1

    def free(self, blocks: Iterable[int]) -> None:
        """Drops a reference to each block; those without any can be allocated again, the first
        given first."""
        for block in blocks:
            left = self._references[block] - 1
            if left:
                self._references[block] = left
                continue
            del self._references[block]
            if block in self._keys:
                self._cached[block] = None
            else:
                self._free.append(block)

    def find(self, key: bytes) -> int | None:
        """The block with this key, if there is one. `share` it before the next `allocate`."""
        return self._by_key.get(key)

    def add_key(self, block: int, key: bytes, owner: Owner) -> None:
        """Lets a held block be found by `key`. The first block of a key keeps it."""
        assert block in self._references, "a key for a block that nobody holds"
        assert block not in self._keys, "a second key for a block"
        if key not in self._by_key:
            self._keys[block] = key, owner
            self._by_key[key] = block
            self._by_owner.setdefault(owner, set()).add(block)

    def forget(self, owner: Owner) -> None:
        """Takes the keys of an owner's blocks; those that nobody holds are allocated first."""
        for block in list(self._by_owner.get(owner, ())):
            self._drop_key(block)

    def is_shared(self, block: int) -> bool:
        """Whether others hold the block or may come to: nobody may write to it."""
        return block in self._keys or self._references[block] > 1

    def check_integrity(self, tables: Iterable[Iterable[int]]) -> None:
        """Raises AssertionError unless `tables` are all references there are, every block is
        either free, cached or referenced, and every key finds its block."""
        counted = Counter(block for table in tables for block in table)
        assert counted == self._references, f"references {self._references}, tables {counted}"
        free, cached = set(self._free), self._cached.keys()
        assert len(free) == len(self._free), "a block is free twice"
        assert not free & counted.keys(), "a block is free and in use"
        assert not cached & (free | counted.keys()), "a cached block is free or in use"
        everything = free | cached | counted.keys()
        assert everything == set(range(1, self.num_blocks + 1)), "a block is lost"
        assert cached <= self._keys.keys(), "a cached block has no key"
        assert not free & self._keys.keys(), "a free block has a key"
        by_key = {key: block for block, (key, _) in self._keys.items()}
        assert by_key == self._by_key, "a key finds another block"
        assert len(by_key) == len(self._keys), "two blocks have one key"
        owned = {block: owner for owner, blocks in self._by_owner.items() for block in blocks}
        assert owned == {block: owner for block, (_, owner) in self._keys.items()}
        assert all(self._by_owner.values()), "an owner without blocks"

    def _drop_key(self, block: int) -> None:
        key, owner = self._keys.pop(block)
        del self._by_key[key]
        blocks = self._by_owner[owner]
        blocks.remove(block)
        if not blocks:
            del self._by_owner[owner]
        if block in self._cached:
            del self._cached[block]
            self._free.append(block)


class KVCache:
    """The cache tensors: per layer [1 + num_blocks, block_size, 2, K, D].

    Resets, copies and writes are queued and run by `flush`, before the step that needs them.
    """

    def __init__(
        self,
        shape: CacheShape,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        size = (1 + num_blocks, block_size, 2, shape.num_kv_heads, shape.head_dim)
        # Zeroed memory stays untouched by the machine until a block is first used.
        self.layers = [
            torch.zeros(size, dtype=dtype, device=device) for _ in range(shape.num_layers)
        ]
        self.block_size = block_size
        self._resets: set[int] = set()
        # Target -> source and how many of its positions.
        self._copies: dict[int, tuple[int, int]] = {}
        # Target -> its first states [layers, n, 2, K, D].
        self._writes: dict[int, torch.Tensor] = {}

    def reset(self, blocks: Iterable[int]) -> None:
        """Zeroes blocks at the next `flush`: a NaN left by the last owner would reach the next
        one through masked positions, since 0 * NaN is NaN."""
        for block in blocks:
            self._resets.add(block)
            self._copies.pop(block, None)
            self._writes.pop(block, None)

    def copy(self, source: int, targets: Iterable[int], count: int | None = None) -> None:
        """Copies a block's first `count` positions (default: all) to others at the next `flush`,
        which zeroes what is behind them.

        `source` must not be waiting for a flush itself. It may be freed, and reset for its next
        owner: a flush reads all sources first.
        """
        assert source not in self._resets, "a copy of what is not there yet"
        targets = list(targets)
        self.reset(targets)
        for target in targets:
            self._copies[target] = source, self.block_size if count is None else count

    def write(self, blocks: Iterable[int], states: torch.Tensor) -> None:
        """Fills blocks with `states` [layers, n, 2, K, D], one after the other, at the next
        `flush`, which zeroes what is behind them."""
        blocks = list(blocks)
        self.reset(blocks)
        self._writes.update(zip(blocks, states.split(self.block_size, dim=1), strict=True))

    def flush(self) -> None:
        """Runs what was queued."""
        if not self._resets:
            return
        device = self.layers[0].device
        resets = torch.tensor(list(self._resets), device=device)
        pairs = [
            (source * self.block_size + i, target * self.block_size + i)
            for target, (source, count) in self._copies.items()
            for i in range(count)
        ]
        sources, targets = torch.tensor(pairs, dtype=torch.int64, device=device).view(-1, 2).t()
        written = torch.tensor(
            [
                block * self.block_size + i
                for block, states in self._writes.items()
                for i in range(states.shape[1])
            ],
            dtype=torch.int64,
            device=device,
        )
        for index, layer in enumerate(self.layers):
            # [(1 + num_blocks) * block_size, 2, K, D]
            positions = layer.view(-1, *layer.shape[2:])
            states = positions[sources] if pairs else None
            layer.index_fill_(0, resets, 0.0)
            if states is not None:
                positions.index_copy_(0, targets, states)
            if self._writes:
                given = torch.cat([states[index] for states in self._writes.values()])
                positions.index_copy_(0, written, given)
        self._resets.clear()
        self._copies.clear()
        self._writes.clear()
