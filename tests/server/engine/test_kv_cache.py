import pytest
import torch

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


@pytest.mark.parametrize("tables", [[[1]], [[1, 2], [1]], [[]], [[1, 2, 3]]])
def test_integrity_check_sees_a_wrong_table(tables: list[list[int]]) -> None:
    pool = BlockPool(3)
    pool.allocate(2)
    with pytest.raises(AssertionError):
        pool.check_integrity(tables)


def test_reset_and_copy() -> None:
    cache = KVCache(CacheShape(2, 1, 3), 4, 2, torch.float32, torch.device("cpu"))
    for layer in cache.layers:
        layer[1:] = torch.arange(4.0).add(1).view(4, 1, 1, 1, 1)
    cache.reset([1, 3])
    assert cache.layers[0][1].unique().tolist() == [1.0]
    cache.copy(2, [3, 4])
    for layer in cache.layers:
        assert [block.unique().tolist() for block in layer] == [[0.0], [0.0], [2.0], [2.0], [2.0]]
