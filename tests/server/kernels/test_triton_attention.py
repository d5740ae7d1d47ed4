"""Triton's attention over the paged cache equals the plain form, and no row depends on others."""

# ruff: noqa: I001  # the interpreter must be chosen before the kernels are defined
from tests.server.kernels.triton_interpreter import DEVICE

import pytest
import torch

from server.kernels.reference import attention_reference
from server.kernels.triton_attention import triton_attention, triton_cache_write

BLOCK = 16
# The interpreter cuts bits off bfloat16.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2**-9, torch.bfloat16: 2e-2}
DTYPES = pytest.mark.parametrize("dtype", sorted(TOLERANCE, key=str), ids=str)


def random(*shape: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


def apart(tensor: torch.Tensor, gaps: tuple[int, ...], filling: float) -> torch.Tensor:
    """The same numbers in memory with `gaps` behind each dimension, that hold `filling`."""
    sizes = [size + gap for size, gap in zip(tensor.shape, gaps, strict=True)]
    wide = torch.full(sizes, filling, dtype=tensor.dtype, device=tensor.device)
    part = wide[tuple(slice(size) for size in tensor.shape)]
    part.copy_(tensor)
    return part


_CASES = [
    (4, 4, 32, None, None, (0, 0, 0, 0, 0)),
    (6, 2, 48, None, None, (1, 0, 0, 0, 3)),
    (8, 1, 64, 20, None, (0, 2, 0, 1, 0)),
    (2, 1, 16, None, 5.0, (0, 1, 1, 0, 8)),
    (18, 1, 24, 300, 30.0, (2, 3, 2, 1, 5)),
]


@pytest.mark.parametrize(
    ("dtype", "case"),
    [
        *((torch.float32, case) for case in _CASES),
        # The interpreter takes its time, and the type changes rounding alone.
        (torch.bfloat16, _CASES[0]),
        (torch.bfloat16, _CASES[3]),
        (torch.float16, _CASES[3]),
    ],
    ids=str,
)
def test_rows_of_every_length(
    dtype: torch.dtype,
    case: tuple[int, int, int, int | None, float | None, tuple[int, ...]],
) -> None:
    num_heads, num_kv, dim, window, softcap, gaps = case
    lengths = [1, 15, 16, 17, 255, 256, 257, 600]
    check(dtype, lengths, (num_heads, num_kv, dim), window, softcap, gaps)


def test_a_full_batch() -> None:
    lengths = list(range(1, 129))
    check(torch.float32, lengths, (2, 1, 16), None, None, (0, 0, 0, 0, 0))


def check(
    dtype: torch.dtype,
    lengths: list[int],
    shape: tuple[int, int, int],
    window: int | None,
    softcap: float | None,
    gaps: tuple[int, ...],
) -> None:
    """Rows of `lengths` against the plain form, each beside the others and some alone; `shape`
    are query heads, key-value heads and their size, `gaps` lie within the cache."""
    num_heads, num_kv, dim = shape
    num_blocks = 1 + sum(-(-length // BLOCK) for length in lengths)
    cache = random(num_blocks, BLOCK, 2, num_kv, dim, seed=1, dtype=dtype)
    cache = apart(cache, gaps, float("nan"))
    order = torch.randperm(num_blocks - 1, generator=torch.Generator().manual_seed(2)) + 1
    tables = torch.zeros(len(lengths), -(-max(lengths) // BLOCK), dtype=torch.int64)
    used = 0
    for i, length in enumerate(lengths):
        count = -(-length // BLOCK)
        tables[i, :count] = order[used : used + count]
        # What lies behind a row's last position is nobody's.
        cache[order[used + count - 1], (length - 1) % BLOCK + 1 :] = float("nan")
        used += count
    cache[0] = float("nan")
    # As the model hands it over: heads before rows, in memory rows before heads.
    query = random(len(lengths), num_heads, dim, seed=3, dtype=dtype).transpose(0, 1)[None]
    scaling = dim**-0.5

    def attend(rows: list[int]) -> torch.Tensor:
        # The whole of it is NaN; rows of tables lie apart, and what is between them is no block.
        out = torch.empty(len(rows), num_heads + 1, dim + gaps[4], dtype=dtype, device=DEVICE)
        own = out[:, :num_heads, :dim]
        triton_attention(
            query[:, :, rows], cache, apart(tables[rows].to(DEVICE), (0, 3), -(1 << 40)),
            torch.tensor([lengths[i] for i in rows], device=DEVICE), own, scaling, window, softcap,
        )  # fmt: skip
        assert bool(out[:, num_heads:].isnan().all()), "written behind a row"
        assert bool(out[:, :, dim:].isnan().all()), "written behind a head"
        return own

    got = attend(list(range(len(lengths))))
    for i, length in enumerate(lengths):
        states = cache[tables[i].to(DEVICE)].flatten(0, 1)[:length].double()
        want = attention_reference(
            query[0, :, i : i + 1].double().cpu(),
            states[:, 0].transpose(0, 1).cpu(),
            states[:, 1].transpose(0, 1).cpu(),
            scaling, window, softcap,
        )[0]  # fmt: skip
        assert (got[i].double().cpu() - want).abs().max() <= TOLERANCE[dtype] * want.abs().max()
        if i % (1 + len(lengths) // 10) == 0:
            assert torch.equal(attend([i])[0], got[i]), "a row depends on its neighbours"


@DTYPES
@pytest.mark.parametrize("dim", [16, 24])
@pytest.mark.parametrize("gaps", [(0, 0, 0, 0, 0), (0, 0, 1, 2, 7)], ids=str)
def test_keys_and_values_are_written_to_their_places(
    dtype: torch.dtype, dim: int, gaps: tuple[int, ...]
) -> None:
    cache = apart(random(5, 4, 2, 3, dim, seed=0, dtype=dtype), gaps, float("nan"))
    whole = cache if cache._base is None else cache._base
    # Three rows of a larger tensor; heads lie between rows.
    key, value = (
        random(7, 3, dim, seed=seed, dtype=dtype)[2:5].transpose(0, 1)[None] for seed in (1, 2)
    )
    places = torch.tensor([19, 0, 6], device=DEVICE)
    want = whole.clone()
    for row, place in enumerate(places.tolist()):
        want[place // 4, place % 4, 0, :3, :dim] = key[0, :, row]
        want[place // 4, place % 4, 1, :3, :dim] = value[0, :, row]
    triton_cache_write(cache, places, key, value)
    assert torch.equal(whole.nan_to_num(nan=99.0), want.nan_to_num(nan=99.0))


def test_no_rows() -> None:
    cache = random(2, 4, 2, 1, 16, seed=0, dtype=torch.float32)
    want = cache.clone()
    none = torch.empty(1, 1, 0, 16, device=DEVICE)
    triton_cache_write(cache, torch.empty(0, dtype=torch.int64, device=DEVICE), none, none)
    assert torch.equal(cache, want)
    index, out = torch.empty(0, dtype=torch.int64, device=DEVICE), torch.empty(0, 1, 16)
    triton_attention(none, cache, index.view(0, 0), index, out, 1.0, None, None)
