"""Triton's low-rank updates with DoRA's scale, IA3's factors and biases in the same launch: any
rank, any layout, and nobody sees a neighbour."""

# ruff: noqa: I001  # the interpreter must be chosen before the kernels are defined
from tests.server.kernels.triton_interpreter import DEVICE

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.kernels import Affine, describe
from server.kernels.reference import affine_reference, lora_reference
from server.kernels.triton_lora import TritonRows, triton_rows
from tests.server.kernels.drawn_adapters import GROUP, NUM_GROUPS, Adapter

# As in the tests of the updates alone; a scale may make errors larger.
TOLERANCE = {
    torch.float32: 2e-5,
    torch.float16: 2**-8,
    torch.bfloat16: 2**-6 if DEVICE.type == "cuda" else 2**-5,
}
Adapters = list[Adapter | None]


def rows_of(adapters: Adapters, counts: list[int], dtype: torch.dtype) -> TritonRows:
    nothing = describe({}, NUM_GROUPS)
    updates = [nothing if adapter is None else adapter.updates for adapter in adapters]
    return triton_rows(np.cumsum([0, *counts]).tolist(), updates, dtype, DEVICE)


def run(
    adapters: Adapters, counts: list[int], x: torch.Tensor, wide: torch.Tensor, width: int
) -> torch.Tensor:
    """What stands in the first `width` columns of `wide` afterwards."""
    rows, result = rows_of(adapters, counts, x.dtype), wide.clone()
    # The base's product of the scaled input is not these kernels' work.
    rows.add(GROUP, rows.scale_input(GROUP, x), result[:, :width])
    behind = result[:, width:]
    assert bool(behind.isnan().all()), "written behind a row"
    return result[:, :width]


def expected(
    adapters: Adapters, counts: list[int], x: torch.Tensor, out: torch.Tensor
) -> torch.Tensor:
    """In float64, one row and one member at a time."""
    owners = [a for a, count in zip(adapters, counts, strict=True) for _ in range(count)]
    affines = [None if owner is None else owner.affine for owner in owners]
    x, result = x.double().cpu(), out.double().cpu()
    scales = [affine and Affine(scale=affine.input_scale) for affine in affines]
    x = affine_reference(x, scales)
    for row, owner in enumerate(owners):
        for columns, a, b in owner.members if owner else ():
            update = (a.double(), b.double().cpu().t(), 1.0)
            result[row : row + 1, columns] = lora_reference(
                x[row : row + 1], [update], result[row : row + 1, columns]
            )
    return affine_reference(
        result, [affine and Affine(None, affine.scale, affine.shift) for affine in affines]
    )


def check(
    adapters: Adapters, counts: list[int], x: torch.Tensor, wide: torch.Tensor, width: int
) -> None:
    got = run(adapters, counts, x, wide, width)
    want = expected(adapters, counts, x, wide[:, :width])
    for i, (adapter, count) in enumerate(zip(adapters, counts, strict=True)):
        begin = sum(counts[:i])
        part = slice(begin, begin + count)
        if adapter is None:
            assert torch.equal(got[part], wide[part, :width]), "a row without an adapter changed"
        if count:
            scale = want[part].abs().max().item()
            error = (got[part].double().cpu() - want[part]).abs().max().item()
            assert error <= TOLERANCE[x.dtype] * scale, (i, error, scale)


def layout(num_rows: int, size: int, gap: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """[num_rows, size + gap] of random numbers, NaN in the last `gap` columns."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(num_rows, size + gap, generator=generator)
    values[:, size:] = float("nan")
    return values.to(DEVICE, dtype)


_FIELDS = [(), ("scale",), ("shift",), ("scale", "shift"), ("input_scale",)]
_FIELDS += [("input_scale", "scale", "shift")]


# Numpy, which interprets, speaks of infinite numbers.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(deadline=None, max_examples=6)
@given(st.data())
def test_any_batch(data: st.DataObject) -> None:
    """Ranks from 1 to 256 beside each other, members left alone, empty runs, rows without an
    adapter; rows lie apart from each other, and a neighbour of infinite numbers stays by itself."""
    widths = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=2))
    size, width = data.draw(st.sampled_from([1, 60])), sum(widths)
    dtype = data.draw(st.sampled_from(sorted(TOLERANCE, key=str)))
    counts = data.draw(st.lists(st.integers(0, 18), min_size=1, max_size=3))
    adapters: Adapters = []
    ranks = st.one_of(st.just(0), st.integers(1, 256))
    for seed in range(len(counts)):
        own = data.draw(
            st.none()
            | st.tuples(
                st.lists(ranks, min_size=len(widths), max_size=len(widths)),
                st.sampled_from(_FIELDS),
            )
        )
        adapters.append(own and Adapter(own[0], widths, size, dtype, seed, own[1]))
    x = layout(sum(counts), size, data.draw(st.integers(0, 9)), dtype, 1)[:, :size]
    wide = layout(sum(counts), width, data.draw(st.integers(0, 9)), dtype, 2)
    check(adapters, counts, x, wide, width)
    got = run(adapters, counts, x, wide, width)
    bad = data.draw(st.integers(0, len(counts) - 1))
    poison = Adapter([9] * len(widths), widths, size, dtype, 7, _FIELDS[-1])
    poison.a.fill_(float("inf"))
    for tensor in (poison.affine.scale, poison.affine.shift, poison.affine.input_scale):
        assert tensor is not None
        tensor.fill_(float("nan"))
    others: Adapters = [*adapters[:bad], poison, *adapters[bad + 1 :]]
    beside = run(others, counts, x, wide, width)
    begin = sum(counts[:bad])
    assert torch.equal(beside[:begin], got[:begin])
    assert torch.equal(beside[begin + counts[bad] :], got[begin + counts[bad] :])
    assert beside[begin : begin + counts[bad]].isnan().all(), "the poison was not read"


@pytest.mark.parametrize("start", [1, 6, 11, 16])
def test_ranks_up_to_256(start: int) -> None:
    """16 ranks beside each other, each a DoRA adapter of one row."""
    ranks = range(start, 257, 16)
    adapters: Adapters = [
        Adapter([rank], [20], 32, torch.float32, rank, ("scale",)) for rank in ranks
    ]
    x, wide = layout(16, 32, 0, torch.float32, 3), layout(16, 20, 1, torch.float32, 4)
    check(adapters, [1] * 16, x, wide, 20)


def test_a_whole_tile_and_more_of_one_adapter() -> None:
    """A run of 40 rows between two of one, of factors alone in two of three."""
    adapters: Adapters = [
        Adapter([0, 0], [64, 66], 530, torch.float32, 0, ("scale",)),
        Adapter([5, 9], [64, 66], 530, torch.float32, 1, ("scale", "shift")),
        Adapter([0, 0], [64, 66], 530, torch.float32, 2, ("input_scale",)),
    ]
    x, wide = layout(42, 530, 3, torch.float32, 5)[:, :530], layout(42, 130, 2, torch.float32, 6)
    check(adapters, [1, 40, 1], x, wide, 130)
    alone = run(adapters[1:2], [40], x[1:41], wide[1:41], 130)
    assert torch.equal(alone, run(adapters, [1, 40, 1], x, wide, 130)[1:41])


def test_nothing_is_launched_for_nothing() -> None:
    """No rows at all, and rows of adapters that leave the group alone: x itself comes back."""
    adapter = Adapter([3], [8], 16, torch.float32, 0, _FIELDS[-1])
    empty = torch.empty(0, 16, device=DEVICE)
    rows = rows_of([adapter], [0], torch.float32)
    assert rows.scale_input(GROUP, empty) is empty
    rows.add(GROUP, empty, torch.empty(0, 8, device=DEVICE))
    x, out = torch.ones(2, 16, device=DEVICE), torch.ones(2, 8, device=DEVICE)
    rows = rows_of([adapter], [2], torch.float32)
    assert rows.scale_input(0, x) is x
    rows.add(0, x, out)
    assert torch.equal(out, torch.ones(2, 8, device=DEVICE))


def test_another_type_of_input_is_refused() -> None:
    adapter = Adapter([3], [8], 16, torch.float32, 0, ("input_scale",))
    rows = rows_of([adapter], [2], torch.float32)
    with pytest.raises(TypeError, match=r"expected torch\.float32, got torch\.float16"):
        rows.scale_input(GROUP, torch.ones(1, 2, 16, device=DEVICE, dtype=torch.float16))
