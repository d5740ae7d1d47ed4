"""Triton's low-rank updates equal the plain form, and no row depends on its neighbours."""

# ruff: noqa: I001  # the interpreter must be chosen before the kernels are defined
from tests.server.kernels.triton_interpreter import DEVICE

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.kernels import describe
from server.kernels.reference import lora_reference
from server.kernels.triton_lora import triton_lora, triton_rows, triton_slot_rows
from tests.server.kernels.drawn_adapters import GROUP, NUM_GROUPS, Adapter

# The hidden numbers and the result are rounded; the interpreter cuts bits off instead.
TOLERANCE = {
    torch.float32: 1e-5,
    torch.float16: 2**-9,
    torch.bfloat16: 2**-7 if DEVICE.type == "cuda" else 2**-6,
}
DTYPES = pytest.mark.parametrize("dtype", sorted(TOLERANCE, key=str), ids=str)


def run(
    adapters: list[Adapter | None],
    counts: list[int],
    x: torch.Tensor,
    wide: torch.Tensor,
    width: int,
) -> torch.Tensor:
    """What stands in the first `width` columns of `wide` afterwards; behind them there is NaN."""
    nothing: npt.NDArray[np.int64] = describe({}, NUM_GROUPS)
    updates = [nothing if adapter is None else adapter.updates for adapter in adapters]
    bounds = np.cumsum([0, *counts]).tolist()
    # The whole: a copy of a part would lie close together.
    result = wide.clone()
    rows = triton_rows(bounds, updates, x.dtype, DEVICE)
    triton_lora(rows, GROUP, x, result[:, :width])
    assert bool(result[:, width:].isnan().all()), "written behind a row"
    return result[:, :width]


def expected(
    adapters: list[Adapter | None], counts: list[int], x: torch.Tensor, out: torch.Tensor
) -> torch.Tensor:
    """In float64, one row and one member at a time."""
    owners = [a for a, count in zip(adapters, counts, strict=True) for _ in range(count)]
    result = out.double().cpu()
    for member in range(max((len(a.members) for a in owners if a), default=0)):
        for row, owner in enumerate(owners):
            if owner is None or member >= len(owner.members):
                continue
            columns, a, b = owner.members[member]
            update = (a.double(), b.double().cpu().t(), 1.0)
            result[row : row + 1, columns] = lora_reference(
                x[row : row + 1].double().cpu(), [update], result[row : row + 1, columns]
            )
    return result


def check(
    adapters: list[Adapter | None],
    counts: list[int],
    size: int,
    width: int,
    dtype: torch.dtype,
    gaps: tuple[int, int] = (5, 3),
    *,
    alone: bool = True,
) -> None:
    """Rows lie `gaps` further apart than they are long, of the input and of the result. `alone`:
    each run is computed again by itself, too."""
    generator = torch.Generator().manual_seed(9)
    num_rows = sum(counts)
    x = torch.full((num_rows, size + gaps[0]), float("nan"))
    x[:, :size] = torch.randn(num_rows, size, generator=generator)
    x = x.to(DEVICE, dtype)[:, :size]
    wide = torch.full((num_rows, width + gaps[1]), float("nan"))
    wide[:, :width] = torch.randn(num_rows, width, generator=generator)
    wide = wide.to(DEVICE, dtype)
    out = wide[:, :width]
    got = run(adapters, counts, x, wide, width)
    want = expected(adapters, counts, x, out)
    for i, (adapter, count) in enumerate(zip(adapters, counts, strict=True)):
        begin = sum(counts[:i])
        part = slice(begin, begin + count)
        if adapter is None:
            assert torch.equal(got[part], out[part]), "rows without an adapter stay as they are"
        if count:
            scale = want[part].abs().max().item()
            error = (got[part].double().cpu() - want[part]).abs().max().item()
            assert error <= TOLERANCE[dtype] * scale, (i, error, scale)
        if alone:
            own = run([adapter], [count], x[part], wide[part], width)
            assert torch.equal(own, got[part]), "a row depends on its neighbours"


@DTYPES
@pytest.mark.parametrize("size", [40, 64, 600])
def test_ranks_and_members_of_all_sorts(dtype: torch.dtype, size: int) -> None:
    widths = [70, 16, 130]
    given_ranks = ([8, 8, 8], [3, 0, 3], None, [0, 0, 0], [0, 33, 1])
    adapters = [
        None if ranks is None else Adapter(ranks, widths, size, dtype, seed)
        for seed, ranks in enumerate(given_ranks)
    ]
    check(adapters, [1, 2, 3, 1, 35], size, sum(widths), dtype)


def test_every_rank_in_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """256 rows, each of another rank, in no order."""
    # Nothing lies behind the first 40 columns, and the interpreter takes its time for it.
    monkeypatch.setattr("server.kernels.triton_lora._SPLIT", 64)
    ranks = (torch.randperm(256, generator=torch.Generator().manual_seed(1)) + 1).tolist()
    adapters: list[Adapter | None] = [
        Adapter([rank], [20], 40, torch.float32, rank) for rank in ranks
    ]
    check(adapters, [1] * 256, 40, 20, torch.float32, alone=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("num_adapters", "rows_each"), [(32, 4), (1, 256)], ids=["32 adapters", "one adapter"]
)
def test_full_batches(dtype: torch.dtype, num_adapters: int, rows_each: int) -> None:
    adapters: list[Adapter | None] = [
        Adapter([16, 8], [40, 24], 64, dtype, seed) for seed in range(num_adapters)
    ]
    check(adapters, [rows_each] * num_adapters, 64, 64, dtype, alone=False)


def test_slots_and_tiles_that_pad() -> None:
    """A step as graphs replay it: tiles without rows, of any slot and any first row, change
    nothing; other tiles in the same memory are other adapters in the same rows."""
    widths, size, rank = [24, 16], 72, 9
    adapters = [Adapter([rank - 2, seed % 3], widths, size, torch.float32, seed) for seed in (1, 2)]
    nothing = describe({}, NUM_GROUPS)
    table = torch.from_numpy(np.stack([nothing, *(one.updates for one in adapters)])).to(DEVICE)
    max_ranks = np.array([0, 16, 0])
    tiles = torch.zeros(6, 3, dtype=torch.int64, device=DEVICE)
    rows = triton_slot_rows(table, max_ranks, torch.float32, tiles)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(6, size, generator=generator).to(DEVICE)
    out = torch.randn(6, sum(widths), generator=generator).to(DEVICE)
    for told in (
        [(2, 1, 2), (1, 4, 1), (1, 5, 1), (0, 0, 0), (2, 3, 0), (1, 0, 0)],
        [(1, 0, 3), (2, 4, 2), (0, 0, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0)],
        [(0, 0, 0)] * 6,
    ):
        tiles.copy_(torch.tensor(told))
        owners: list[Adapter | None] = [None] * 6
        for slot, first, count in told:
            owners[first : first + count] = [adapters[slot - 1]] * count
        got = out.clone()
        rows.add(GROUP, x, got)
        want = expected(owners, [1] * 6, x, out)
        assert (got.double().cpu() - want).abs().max().item() <= 1e-5 * want.abs().max().item()
        for row, owner in enumerate(owners):
            assert owner is not None or torch.equal(got[row], out[row])
    # Another group has no ranks: nothing is launched for it.
    rows.add(0, x, got)
    assert torch.equal(got, out)
    assert rows.scale_input(GROUP, x) is x


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_random_batches(data: st.DataObject) -> None:
    widths = data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=4))
    size = data.draw(st.integers(1, 200))
    adapters: list[Adapter | None] = []
    counts = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=5))
    for seed in range(len(counts)):
        ranks = data.draw(
            st.none() | st.lists(st.integers(0, 20), min_size=len(widths), max_size=len(widths))
        )
        adapters.append(
            None if ranks is None else Adapter(ranks, widths, size, torch.float32, seed)
        )
    gaps = data.draw(st.tuples(st.integers(0, 40), st.integers(0, 40)))
    check(adapters, counts, size, sum(widths), torch.float32, gaps)


def test_nothing_to_do() -> None:
    x = torch.ones(2, 8, device=DEVICE)
    out = torch.ones(2, 4, device=DEVICE)
    assert torch.equal(run([None, None], [1, 1], x, out, 4), out)


def test_other_types_are_refused() -> None:
    adapter = Adapter([2], [4], 8, torch.float32, 0)
    x = torch.ones(1, 8, device=DEVICE)
    rows = triton_rows([0, 1], [adapter.updates], torch.float32, DEVICE)
    with pytest.raises(TypeError, match=r"expected torch\.float32, got torch\.bfloat16"):
        triton_lora(rows, GROUP, x.bfloat16(), x[:, :4])
    with pytest.raises(ValueError, match="contiguous"):
        triton_lora(rows, GROUP, x, torch.ones(4, 1, device=DEVICE).t()[:, ::2])
