"""Attention of one layer over the paged cache, and writing to it, against the device's best."""

from collections.abc import Iterator
from functools import partial

import torch

from server.errors import StartupError
from server.kernels import (
    AttentionStep,
    FlashInfer,
    LongChunk,
    PagePlan,
    load_flashinfer,
    page_plan,
    paged_attention,
)
from server.kernels.triton_attention import triton_attention, triton_cache_write
from server.kernels.triton_kernels import TritonKernels
from server.models.timing import seconds
from tests.bench.gpu_ceiling import Ceiling, Figures, device
from tests.bench.shape import Shape

_BLOCK = 16
Cases = tuple[tuple[int, int], ...]


def decode(shape: Shape, cases: Cases, passes: int, ceiling: Ceiling) -> Iterator[Figures]:
    """Numbers of sequences, and positions of each: keys and values have to be read once."""
    dim = shape.head_dim
    for num, length in cases:
        cache, tables, lengths, query = _inputs(shape, num, length)
        out = torch.empty(num, shape.heads, dim, device=device(), dtype=torch.bfloat16)
        work = partial(triton_attention, query, cache, tables, lengths, out, dim**-0.5, None, None)
        took = seconds(work, device(), passes)
        yield {
            "kernel": "decode", "sequences": num, "positions": length,
            **ceiling.compare(took, *_decode_work(shape, num, length)),
        }  # fmt: skip


def prompt(shape: Shape, cases: Cases, passes: int, ceiling: Ceiling) -> Iterator[Figures]:
    """Rows of one prompt, and positions before them: rows are written to the cache, then attend as
    a step does it, by torch's product or by what it chooses."""
    for num, start in cases:
        cache, tables, _, _ = _inputs(shape, 1, start + num)
        blocks = tables[0].to(torch.int64)
        position = torch.arange(start, start + num, device=device())
        step = AttentionStep(
            caches=[cache],
            write_index=blocks[position // _BLOCK] * _BLOCK + position % _BLOCK,
            short=(),
            chunks=(LongChunk(slice(0, num), start, blocks),),
            scratch=torch.empty(cache.numel(), device=device(), dtype=torch.bfloat16),
            kernels=TritonKernels(device()),
        )
        query, key, value = (_heads(n, num, shape) for n in (shape.heads, *[shape.kv_heads] * 2))
        work = partial(paged_attention, step, 0, query, key, value, shape.head_dim**-0.5)
        read = cache[0].nbytes // _BLOCK * (start + num)
        pairs = num * start + num * (num + 1) // 2
        took = seconds(work, device(), passes)
        yield {
            "kernel": "prompt", "rows": num, "before": start,
            **ceiling.compare(
                took, read + 2 * query.nbytes, 4 * shape.heads * shape.head_dim * pairs
            ),
        }  # fmt: skip


def cache_write(
    shape: Shape, rows: tuple[int, ...], passes: int, ceiling: Ceiling
) -> Iterator[Figures]:
    """Keys and values of a step's rows: read and written once."""
    for num in rows:
        cache, _, _, _ = _inputs(shape, num, _BLOCK)
        places = torch.randperm(num * _BLOCK, device=device())[:num] + _BLOCK
        key, value = (_heads(shape.kv_heads, num, shape) for _ in range(2))
        took = seconds(partial(triton_cache_write, cache, places, key, value), device(), passes)
        yield {"kernel": "cache_write", "rows": num, **ceiling.compare(took, 4 * key.nbytes)}


def flashinfer(shape: Shape, cases: Cases, passes: int, ceiling: Ceiling) -> Iterator[Figures]:
    """As `decode`, by FlashInfer, with and without the plan that a step makes once. Raises
    StartupError where it is missing."""
    library = load_flashinfer(device(), torch.bfloat16)
    if isinstance(library, str):
        raise StartupError(f"flashinfer: {library}")
    own = FlashInfer(library, device())
    for num, length in cases:
        cache, tables, _, query = _inputs(shape, num, length)
        plan = page_plan([(length, row) for row in tables.tolist()], _BLOCK)
        by_row, scaling = query[0].transpose(0, 1), query.shape[-1] ** -0.5
        step = own.step(plan, None)
        took = seconds(partial(step.attend, by_row, cache, scaling, None, None), device(), passes)
        planned = seconds(partial(_planned, own, plan, by_row, cache, scaling), device(), passes)
        yield {
            "kernel": "flashinfer", "sequences": num, "positions": length,
            **ceiling.compare(took, *_decode_work(shape, num, length)), "with_plan_s": planned,
        }  # fmt: skip


def _planned(
    own: FlashInfer, plan: PagePlan, query: torch.Tensor, cache: torch.Tensor, scaling: float
) -> torch.Tensor:
    return own.step(plan, None).attend(query, cache, scaling, None, None)


def _decode_work(shape: Shape, num: int, length: int) -> tuple[int, int]:
    """Bytes and operations of `num` queries with `length` positions each."""
    num_bytes = 2 * num * length * 2 * shape.kv_heads * shape.head_dim
    return num_bytes, 4 * num * length * shape.heads * shape.head_dim


def _heads(heads: int, rows: int, shape: Shape) -> torch.Tensor:
    return torch.randn(1, heads, rows, shape.head_dim, device=device(), dtype=torch.bfloat16)


def _inputs(
    shape: Shape, num: int, length: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cache, block tables, lengths and queries of `num` sequences of `length` positions."""
    blocks = -(-length // _BLOCK)
    size = (num * blocks + 1, _BLOCK, 2, shape.kv_heads, shape.head_dim)
    cache = torch.randn(size, device=device(), dtype=torch.bfloat16)
    order = torch.randperm(num * blocks, device=device(), dtype=torch.int32) + 1
    lengths = torch.full((num,), length, device=device())
    return cache, order.view(num, blocks), lengths, _heads(shape.heads, num, shape)
