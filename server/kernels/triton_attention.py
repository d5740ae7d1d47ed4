"""Attention of single rows over the paged cache, in Triton.

Each row is a query on its own: a token in decode, or one of the last few of a prompt. The
positions of a row are cut into splits of fixed length (flash-decoding), each program attends with
all query heads of one key-value head over one split, and a second launch joins the splits in
order. So a row's result depends on its own length alone, not on the batch.
"""

import torch
import triton
import triton.language as tl

from server.kernels.triton_types import TYPES, dot_type

# Positions of a split, and of one step within it.
_SPLIT = 256
_POSITIONS = 32
# `tl.dot` takes no fewer rows.
_MIN_QUERIES = 16
_LOG2_E = 1.4426950408889634


def triton_attention(
    query: torch.Tensor,
    cache: torch.Tensor,
    tables: torch.Tensor,
    lengths: torch.Tensor,
    out: torch.Tensor,
    scaling: float,
    sliding_window: int | None,
    softcap: float | None,
) -> None:
    """Attends with the first `len(lengths)` rows of `query` [1, H, T, D] into `out` [T, H, D].

    `cache` is [num_blocks, block_size, 2, K, D], keys before values; row i sees the first
    `lengths[i]` positions of the blocks `tables[i]`, the last `sliding_window` of them if given.
    With `softcap` c scores are bounded to c * tanh(score / c). Sums are float32.
    """
    num_rows, num_heads, dim = len(lengths), query.shape[1], query.shape[3]
    if not num_rows:
        return
    _, block_size, _, num_kv, _ = cache.shape
    group = num_heads // num_kv
    # Of the longest that the tables have room for: no length has to be read back.
    num_splits = triton.cdiv(tables.shape[1] * block_size, _SPLIT)
    shape = (num_splits, num_rows, num_heads)
    parts = torch.empty(*shape, dim, dtype=torch.float32, device=query.device)
    # The largest score of a split, in powers of two, and the sum of weights relative to it.
    largest = torch.empty(shape, dtype=torch.float32, device=query.device)
    sums = torch.empty_like(largest)
    size = triton.next_power_of_2(dim)
    _attend[num_rows, num_kv, num_splits](
        query, query.stride(1), query.stride(2), cache, *cache.stride()[:4],
        tables, tables.stride(0), lengths, parts, largest, sums,
        num_rows, num_heads, block_size, scaling, softcap or 1.0,
        TYPE=TYPES[query.dtype], DOT=dot_type(_attend, query.dtype),
        GROUP=group, QUERIES=max(_MIN_QUERIES, triton.next_power_of_2(group)),
        DIM=dim, SIZE=max(16, size), SPLIT=_SPLIT, POSITIONS=_POSITIONS,
        WINDOW=sliding_window or 0, HAS_SOFTCAP=softcap is not None, LOG2_E=_LOG2_E,
    )  # fmt: skip
    _join[num_rows, num_heads](
        parts, largest, sums, lengths, out, out.stride(0), out.stride(1), num_rows, num_heads,
        num_splits, TYPE=TYPES[query.dtype], DIM=dim, SIZE=size, SPLIT=_SPLIT,
        WINDOW=sliding_window or 0,
    )  # fmt: skip


def triton_cache_write(
    cache: torch.Tensor, places: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> None:
    """Writes `key` and `value` [1, K, T, D] to `places` [T] of a layer's flattened cache."""
    num_rows, num_kv, dim = key.shape[2], key.shape[1], key.shape[3]
    if num_rows:
        _write[num_rows, num_kv](
            cache, cache.stride(1), cache.stride(2), cache.stride(3), places,
            key, key.stride(1), key.stride(2), value, value.stride(1), value.stride(2),
            DIM=dim, SIZE=triton.next_power_of_2(dim),
        )  # fmt: skip


@triton.jit
def _write(
    cache, place_stride, kind_stride, head_stride, places,
    key, key_head_stride, key_stride, value, value_head_stride, value_stride,
    DIM: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, SIZE)
    target = cache + tl.load(places + row).to(tl.int64) * place_stride + head * head_stride
    known = column < DIM
    source = key + head * key_head_stride + row * key_stride + column
    tl.store(target + column, tl.load(source, known, 0.0), known)
    source = value + head * value_head_stride + row * value_stride + column
    tl.store(target + kind_stride + column, tl.load(source, known, 0.0), known)


# What changes from step to step is not compiled for: that would take seconds beside requests.
@triton.jit(do_not_specialize=["table_stride", "num_rows"])
def _attend(
    query, query_head_stride, query_stride,
    cache, block_stride, place_stride, kind_stride, head_stride,
    tables, table_stride, lengths, parts, largest, sums,
    num_rows, num_heads, block_size, scaling, softcap,
    TYPE: tl.constexpr, DOT: tl.constexpr, GROUP: tl.constexpr, QUERIES: tl.constexpr,
    DIM: tl.constexpr, SIZE: tl.constexpr, SPLIT: tl.constexpr, POSITIONS: tl.constexpr,
    WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr, LOG2_E: tl.constexpr,
):  # fmt: skip
    """One split of one row, for the query heads of one key-value head."""
    row, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row).to(tl.int32)
    begin = split * SPLIT
    end = tl.minimum(begin + SPLIT, length)
    first = 0
    if WINDOW > 0:
        first = tl.maximum(length - WINDOW, 0)
    if (begin < length) & (end > first):
        member, column = tl.arange(0, QUERIES), tl.arange(0, SIZE)
        head = kv_head * GROUP + member
        mine = (member < GROUP)[:, None] & (column < DIM)[None, :]
        source = query + row.to(tl.int64) * query_stride
        q = tl.load(source + head[:, None] * query_head_stride + column[None, :], mine, 0.0)
        top = tl.full((QUERIES,), float("-inf"), tl.float32)
        weight_sum = tl.zeros((QUERIES,), tl.float32)
        total = tl.zeros((QUERIES, SIZE), tl.float32)
        for start in range(begin, end, POSITIONS):
            position = start + tl.arange(0, POSITIONS)
            seen = (position < end) & (position >= first)
            block = tl.load(
                tables + row.to(tl.int64) * table_stride + position // block_size, seen, 0
            )
            place = block.to(tl.int64) * block_stride + (position % block_size) * place_stride
            states = cache + place[:, None] + kv_head * head_stride + column[None, :]
            known = seen[:, None] & (column < DIM)[None, :]
            keys = tl.load(states, known, 0.0)
            scores = tl.dot(q.to(DOT), tl.trans(keys).to(DOT), input_precision="ieee") * scaling
            if HAS_SOFTCAP:
                # tanh(x) = 1 - 2 / (e^2x + 1), which holds at both ends.
                scores = softcap * (1 - 2 / (tl.exp2(scores / softcap * (2 * LOG2_E)) + 1))
            scores = tl.where(seen[None, :], scores * LOG2_E, float("-inf"))
            new_top = tl.maximum(top, tl.max(scores, 1))
            # Until a position is seen, both are -inf, and their difference is no number.
            known_top = tl.where(new_top == float("-inf"), 0.0, new_top)
            weights = tl.exp2(scores - known_top[:, None])
            shrink = tl.exp2(top - known_top)
            values = tl.load(states + kind_stride, known, 0.0)
            total = total * shrink[:, None]
            total = tl.dot(weights.to(TYPE).to(DOT), values.to(DOT), total, input_precision="ieee")
            weight_sum = weight_sum * shrink + tl.sum(weights, 1)
            top = new_top
        target = (split.to(tl.int64) * num_rows + row) * num_heads + head
        tl.store(parts + target[:, None] * DIM + column[None, :], total, mine)
        tl.store(largest + target, top, member < GROUP)
        tl.store(sums + target, weight_sum, member < GROUP)


@triton.jit(do_not_specialize=["num_rows", "num_splits"])
def _join(
    parts, largest, sums, lengths, out, out_stride, out_head_stride, num_rows, num_heads,
    num_splits, TYPE: tl.constexpr, DIM: tl.constexpr, SIZE: tl.constexpr, SPLIT: tl.constexpr,
    WINDOW: tl.constexpr,
):  # fmt: skip
    """One row and head: the splits that were written, in order."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    length = tl.load(lengths + row).to(tl.int32)
    first = 0
    if WINDOW > 0:
        first = tl.maximum(length - WINDOW, 0)
    column = tl.arange(0, SIZE)
    top = float("-inf")
    for split in range(num_splits):
        if (split * SPLIT < length) & ((split + 1) * SPLIT > first):
            top = tl.maximum(top, tl.load(largest + (split * num_rows + row) * num_heads + head))
    total = tl.zeros((SIZE,), tl.float32)
    weight_sum = 0.0
    for split in range(num_splits):
        if (split * SPLIT < length) & ((split + 1) * SPLIT > first):
            source = (split * num_rows + row) * num_heads + head
            share = tl.exp2(tl.load(largest + source) - top)
            total += share * tl.load(parts + source * DIM + column, column < DIM, 0.0)
            weight_sum += share * tl.load(sums + source)
    target = out + row * out_stride + head * out_head_stride + column
    tl.store(target, (total / weight_sum).to(TYPE), column < DIM)
