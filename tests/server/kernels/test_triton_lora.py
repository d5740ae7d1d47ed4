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
from server.kernels.triton_lora import triton_lora, triton_rows
from tests.server.kernels.drawn_adapters import GROUP, NUM_GROUPS, Adapter

# The hidden numbers and the result are rounded; the interpreter cuts bits off instead.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7 if DEVICE.type == "cuda" else 2**-6}


def run(
    adapters: list[Adapter | None], counts: list[int], x: torch.Tensor, out: torch.Tensor
) -> torch.Tensor:
    nothing: npt.NDArray[np.int64] = describe({}, NUM_GROUPS)
    updates = [nothing if adapter is None else adapter.updates for adapter in adapters]
    bounds = np.cumsum([0, *counts]).tolist()
    result = out.clone()
    rows = triton_rows(bounds, updates, x.dtype, DEVICE)
    triton_lora(rows, GROUP, x, result)
    return result


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
    adapters: list[Adapter | None], counts: list[int], size: int, width: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(9)
    num_rows = sum(counts)
    # Rows lie further apart than they are long.
    x = torch.randn(num_rows, size + 5, generator=generator).to(DEVICE, dtype)[:, :size]
    wide = torch.randn(num_rows, width + 3, generator=generator).to(DEVICE, dtype)
    wide[:, width:] = float("nan")
    out = wide[:, :width]
    got = run(adapters, counts, x, out)
    want = expected(adapters, counts, x, out)
    scale = want.abs().max().item()
    assert (got.double().cpu() - want).abs().max().item() <= TOLERANCE[dtype] * scale
    for i, (adapter, count) in enumerate(zip(adapters, counts, strict=True)):
        begin = sum(counts[:i])
        part = slice(begin, begin + count)
        if adapter is None:
            assert torch.equal(got[part], out[part]), "rows without an adapter stay as they are"
        alone = run([adapter], [count], x[part], out[part])
        assert torch.equal(alone, got[part]), "a row depends on its neighbours"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [40, 64, 600])
def test_ranks_and_members_of_all_sorts(dtype: torch.dtype, size: int) -> None:
    widths = [70, 16, 130]
    given_ranks = ([8, 8, 8], [3, 0, 3], None, [0, 0, 0], [0, 33, 1])
    adapters = [
        None if ranks is None else Adapter(ranks, widths, size, dtype, seed)
        for seed, ranks in enumerate(given_ranks)
    ]
    check(adapters, [1, 2, 3, 1, 35], size, sum(widths), dtype)


@pytest.mark.parametrize("rank", [1, 2, 7, 15, 16, 17, 31, 64, 100, 128, 255, 256])
def test_every_size_of_rank(rank: int) -> None:
    adapters = [
        Adapter([rank], [48], 96, torch.float32, rank),
        Adapter([4], [48], 96, torch.float32, 0),
    ]
    check(adapters, [2, 1], 96, 48, torch.float32)


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
    check(adapters, counts, size, sum(widths), torch.float32)


def test_nothing_to_do() -> None:
    x = torch.ones(2, 8, device=DEVICE)
    out = torch.ones(2, 4, device=DEVICE)
    assert torch.equal(run([None, None], [1, 1], x, out), out)


def test_other_types_are_refused() -> None:
    adapter = Adapter([2], [4], 8, torch.float32, 0)
    x = torch.ones(1, 8, device=DEVICE)
    rows = triton_rows([0, 1], [adapter.updates], torch.float32, DEVICE)
    with pytest.raises(TypeError, match=r"expected torch\.float32, got torch\.bfloat16"):
        triton_lora(rows, GROUP, x.bfloat16(), x[:, :4])
    with pytest.raises(ValueError, match="contiguous"):
        triton_lora(rows, GROUP, x, torch.ones(4, 1, device=DEVICE).t()[:, ::2])
