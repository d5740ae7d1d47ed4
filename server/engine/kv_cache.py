"""The paged cache of keys and values: who owns which block, and the tensors themselves."""

from collections import Counter, deque
from collections.abc import Iterable

import torch

from server.models.decoder import CacheShape

# Never owned: padding of block tables points to it.
NULL_BLOCK = 0


class BlockPool:
    """Reference-counted block numbers 1 .. num_blocks. Not thread-safe."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = deque(range(1, num_blocks + 1))
        self._references: dict[int, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that `allocate` can give."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Blocks that somebody holds."""
        return self.num_blocks - len(self._free)

    def can_allocate(self, count: int) -> bool:
        """Whether `allocate(count)` would succeed."""
        return count <= len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Takes blocks, each with one reference. Requires `can_allocate(count)`."""
        blocks = [self._free.popleft() for _ in range(count)]
        self._references.update(dict.fromkeys(blocks, 1))
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """Adds a reference to each block."""
        for block in blocks:
            self._references[block] += 1

    def free(self, blocks: Iterable[int]) -> None:
        """Drops a reference to each block; those without any can be allocated again."""
        for block in blocks:
            left = self._references[block] - 1
            if left:
                self._references[block] = left
            else:
                del self._references[block]
                self._free.append(block)

    def check_integrity(self, tables: Iterable[Iterable[int]]) -> None:
        """Raises AssertionError unless `tables` are all references there are, and every block is
        either free or referenced."""
        counted = Counter(block for table in tables for block in table)
        assert counted == self._references, f"references {self._references}, tables {counted}"
        free = set(self._free)
        assert len(free) == len(self._free), "a block is free twice"
        assert not free & counted.keys(), "a block is free and in use"
        assert free | counted.keys() == set(range(1, self.num_blocks + 1)), "a block is lost"


class KVCache:
    """The cache tensors: per layer [1 + num_blocks, block_size, 2, K, D].

    Resets are queued and run by `flush`, before the step that needs them.
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
        self._resets: list[int] = []

    def reset(self, blocks: Iterable[int]) -> None:
        """Zeroes blocks at the next `flush`: a NaN left by the last owner would reach the next
        one through masked positions, since 0 * NaN is NaN."""
        self._resets.extend(blocks)

    def flush(self) -> None:
        """Runs what was queued."""
        if self._resets:
            index = torch.tensor(self._resets, device=self.layers[0].device)
            for layer in self.layers:
                layer.index_fill_(0, index, 0.0)
            self._resets.clear()

    def copy(self, source: int, targets: list[int]) -> None:
        """Copies a block to others, now."""
        self.flush()
        for layer in self.layers:
            layer[targets] = layer[source].clone()
