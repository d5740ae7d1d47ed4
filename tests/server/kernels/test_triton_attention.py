"""Triton's attention over the paged cache equals the plain form, and no row depends on others."""

# ruff: noqa: I001  # the interpreter must be chosen before the kernels are defined
from tests.server.kernels.triton_interpreter import DEVICE

import pytest
import torch

from server.kernels.reference import attention_reference
from server.kernels.triton_attention import triton_attention, triton_cache_write

BLOCK = 16


def random(*shape: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("num_heads", "num_kv", "dim", "window", "softcap"),
    [
        (4, 4, 32, None, None),
        (6, 2, 48, None, None),
        (8, 1, 64, 20, None),
        (2, 1, 16, None, 5.0),
        (18, 1, 24, 300, 30.0),
    ],
)
def test_rows_of_every_length(
    dtype: torch.dtype,
    num_heads: int,
    num_kv: int,
    dim: int,
    window: int | None,
    softcap: float | None,
) -> None:
    lengths = [1, 15, 16, 17, 255, 256, 257, 600]
    num_blocks = 1 + sum(-(-length // BLOCK) for length in lengths)
    cache = random(num_blocks, BLOCK, 2, num_kv, dim, seed=1, dtype=dtype)
    order = torch.randperm(num_blocks - 1, generator=torch.Generator().manual_seed(2)) + 1
    tables = torch.zeros(len(lengths), -(-max(lengths) // BLOCK), dtype=torch.int32)
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
        out = torch.full((len(rows), num_heads, dim), 7.0, dtype=dtype, device=DEVICE)
        triton_attention(
            query[:, :, rows], cache, tables[rows].to(DEVICE),
            torch.tensor([lengths[i] for i in rows], device=DEVICE), out, scaling, window, softcap,
        )  # fmt: skip
        return out

    got = attend(list(range(len(lengths))))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for i, length in enumerate(lengths):
        states = cache[tables[i].to(DEVICE).long()].flatten(0, 1)[:length].double()
        want = attention_reference(
            query[0, :, i : i + 1].double().cpu(),
            states[:, 0].transpose(0, 1).cpu(),
            states[:, 1].transpose(0, 1).cpu(),
            scaling, window, softcap,
        )[0]  # fmt: skip
        assert (got[i].double().cpu() - want).abs().max() <= tolerance * want.abs().max()
        assert torch.equal(attend([i])[0], got[i]), "a row depends on its neighbours"


@pytest.mark.parametrize("dim", [16, 24])
def test_keys_and_values_are_written_to_their_places(dim: int) -> None:
    cache = random(5, 4, 2, 3, dim, seed=0, dtype=torch.bfloat16)
    # Three rows of a larger tensor; heads lie between rows.
    key, value = (
        random(7, 3, dim, seed=seed, dtype=torch.bfloat16)[2:5].transpose(0, 1)[None]
        for seed in (1, 2)
    )
    places = torch.tensor([19, 0, 6], device=DEVICE)
    want = cache.clone()
    flat = want.view(-1, 2, 3, dim)
    for row, place in enumerate(places.tolist()):
        flat[place, 0], flat[place, 1] = key[0, :, row], value[0, :, row]
    triton_cache_write(cache, places, key, value)
    assert torch.equal(cache, want)
