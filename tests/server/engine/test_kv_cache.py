import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from server.engine.kv_cache import BlockPool, KVCache
from server.models.decoder import CacheShape


def test_blocks_are_given_once_and_return() -> None:
    pool = BlockPool(4)
    first, second = pool.allocate(3), pool.allocate(1)
    assert sorted(first + second) == [1, 2, 3, 4]
    assert not pool.can_allocate(1)
    pool.check_integrity([first, second])
    pool.free(first)
    assert pool.can_allocate(3)
    assert not pool.can_allocate(4)
    pool.check_integrity([second])


def test_shared_blocks_stay_until_the_last_reference() -> None:
    pool = BlockPool(3)
    blocks = pool.allocate(2)
    pool.share(blocks)
    pool.check_integrity([blocks, blocks])
    pool.free(blocks)
    assert pool.num_used == 2
    pool.free(blocks)
    assert pool.num_used == 0


def test_keyed_blocks_are_given_last_the_oldest_first() -> None:
    pool = BlockPool(4)
    blocks = pool.allocate(3)
    for block in blocks:
        pool.add_key(block, b"%d" % block, None)
    pool.free(reversed(blocks))
    assert (pool.num_free, pool.num_cached, pool.num_used) == (4, 3, 0)
    assert pool.allocate(1) == [4]
    assert pool.allocate(1) == [3]
    assert pool.find(b"3") is None
    assert pool.find(b"2") == 2
    pool.share([2])
    assert not pool.can_allocate(1, keeping=[1])
    assert pool.can_allocate(1, keeping=[2])
    pool.check_integrity([[4], [3], [2]])
    assert pool.allocate(1) == [1]
    pool.check_integrity([[4], [3], [2], [1]])


def test_forgotten_blocks_are_given_before_others() -> None:
    pool = BlockPool(4)
    blocks = pool.allocate(4)
    for block in blocks:
        pool.add_key(block, b"%d" % block, ("a", "v") if block % 2 else None)
    pool.free(blocks[:3])
    pool.forget(("a", "v"))
    pool.forget(("unknown", "v"))
    assert [pool.find(b"%d" % block) for block in blocks] == [None, 2, None, 4]
    assert sorted(pool.allocate(2)) == [1, 3]
    pool.check_integrity([[1, 3], [4]])


def test_the_first_block_of_a_key_keeps_it() -> None:
    pool = BlockPool(2)
    pool.allocate(2)
    pool.add_key(1, b"key", None)
    pool.add_key(2, b"key", None)
    assert pool.find(b"key") == 1
    pool.free([2, 1])
    assert pool.num_cached == 1
    pool.check_integrity([])


@pytest.mark.parametrize("tables", [[[1]], [[1, 2], [1]], [[]], [[1, 2, 3]]])
def test_integrity_check_sees_a_wrong_table(tables: list[list[int]]) -> None:
    pool = BlockPool(3)
    pool.allocate(2)
    with pytest.raises(AssertionError):
        pool.check_integrity(tables)


class Pool(RuleBasedStateMachine):
    """A pool beside its plain form: who holds what, and keys by age."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(6)
        self.tables: list[list[int]] = []
        self.keys: dict[bytes, int] = {}
        self.freed: list[int] = []
        """Keyed blocks that nobody holds, freed longest ago first."""

    @property
    def held(self) -> set[int]:
        return {block for table in self.tables for block in table}

    @rule(count=st.integers(0, 6))
    def allocate(self, count: int) -> None:
        assert self.pool.can_allocate(count) == (count <= 6 - len(self.held))
        if not self.pool.can_allocate(count):
            return
        num_evicted = max(0, count - (6 - len(self.held) - len(self.freed)))
        evicted, self.freed = self.freed[:num_evicted], self.freed[num_evicted:]
        self.keys = {key: block for key, block in self.keys.items() if block not in evicted}
        blocks = self.pool.allocate(count)
        assert not set(blocks) & (self.held | set(self.freed))
        assert set(evicted) <= set(blocks)
        self.tables.append(blocks)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), key=st.binary(max_size=1))
    def add_key(self, data: st.DataObject, key: bytes) -> None:
        block = data.draw(st.sampled_from(sorted(self.held)))
        if block not in self.keys.values():
            self.pool.add_key(block, key, (key.hex(), ""))
            self.keys.setdefault(key, block)

    @precondition(lambda self: self.keys)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.keys)))
        block = self.pool.find(key)
        assert block == self.keys[key]
        self.pool.share([block])
        self.tables.append([block])
        self.freed = [other for other in self.freed if other != block]

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        table = self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1)))
        self.pool.free(table)
        self.freed += [b for b in table if b in self.keys.values() and b not in self.held]

    @rule(key=st.binary(max_size=1))
    def forget(self, key: bytes) -> None:
        self.pool.forget((key.hex(), ""))
        block = self.keys.pop(key, None)
        self.freed = [other for other in self.freed if other != block]

    @invariant()
    def agrees(self) -> None:
        self.pool.check_integrity(self.tables)
        assert self.pool.num_cached == len(self.freed)
        assert self.pool.num_used == len(self.held)
        assert {key: self.pool.find(key) for key in self.keys} == self.keys


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


def _cache() -> KVCache:
    """Blocks of two positions, block b holding b + 1."""
    cache = KVCache(CacheShape(2, 1, 3), 4, 2, torch.float32, torch.device("cpu"))
    for layer in cache.layers:
        layer[:] = torch.arange(5.0).add(1).view(5, 1, 1, 1, 1)
    return cache


def _content(cache: KVCache) -> list[list[float]]:
    """Of each block its two positions."""
    first, *others = (layer.amax((2, 3, 4)).tolist() for layer in cache.layers)
    assert all(other == first for other in others)
    return first


def test_reset_and_copy() -> None:
    cache = _cache()
    cache.reset([1])
    cache.copy(2, [3])
    cache.copy(2, [4], 1)
    assert _content(cache) == [[1, 1], [2, 2], [3, 3], [4, 4], [5, 5]]
    cache.flush()
    assert _content(cache) == [[1, 1], [0, 0], [3, 3], [3, 3], [3, 0]]
    cache.flush()
    assert _content(cache) == [[1, 1], [0, 0], [3, 3], [3, 3], [3, 0]]


def test_a_source_may_be_reset_for_its_next_owner() -> None:
    cache = _cache()
    cache.copy(2, [3, 2], 1)
    cache.reset([2])
    cache.copy(1, [4])
    cache.copy(1, [2], 1)
    cache.flush()
    assert _content(cache) == [[1, 1], [2, 2], [2, 0], [3, 0], [2, 2]]


def test_the_last_word_counts() -> None:
    cache = _cache()
    cache.reset([4])
    cache.copy(2, [4])
    cache.copy(2, [3])
    cache.reset([3])
    cache.flush()
    assert _content(cache) == [[1, 1], [2, 2], [3, 3], [0, 0], [3, 3]]


def test_write() -> None:
    cache = _cache()
    # Two layers, three positions.
    states = torch.arange(7.0, 10.0).view(1, 3, 1, 1, 1).expand(2, 3, 2, 1, 3)
    cache.copy(1, [4])
    cache.write([2, 4], states)
    cache.copy(1, [3])
    cache.write([3], states[:, :1])
    cache.write([1], states[:, 2:])
    cache.reset([1])
    cache.flush()
    assert _content(cache) == [[1, 1], [0, 0], [7, 8], [7, 0], [9, 0]]
    cache.flush()
    assert _content(cache) == [[1, 1], [0, 0], [7, 8], [7, 0], [9, 0]]
    cache.write([4], states[:, :2])
    cache.copy(2, [4])
    cache.flush()
    assert _content(cache)[4] == [7, 8]
