"""Attention over a paged cache.

The cache of one layer is [num_blocks, block_size, 2, K, D]: keys at index 0, values at 1. Rows of
short chunks (decode, and the last few tokens of a prompt) run as independent queries: natively,
read where they lie, or in torch as one padded batch. Each long chunk runs on its own, in torch.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from server.kernels.interface import Kernels, PlannedAttention


@dataclass(frozen=True)
class LongChunk:
    """Rows `rows` are positions `start` .. `start + n` of one sequence, whose positions up to
    there lie in `blocks`, which may be padded with block 0."""

    rows: slice
    start: int
    blocks: torch.Tensor


@dataclass(frozen=True)
class ShortRows:
    """Rows that are queries on their own: `rows[i]` sees the first `lengths[i]` positions of the
    sequence in `tables[i]`, which is padded with block 0. `rows` None: the first rows."""

    rows: torch.Tensor | None
    tables: torch.Tensor
    lengths: torch.Tensor


@dataclass
class AttentionStep:
    """Where the rows of a step find their keys and values.

    `write_index` [T] is each row's place in the flattened cache; a row's own key and value are
    written before anything is read. `short` holds rows of like lengths together, since each is
    padded to the longest. `scratch` is a buffer that gathers reuse. Masks are made once per step
    and window.

    With `query_multiple` above 1, the queries of each product are padded to a multiple of it, and
    every row takes its keys from the cache: one order of summation for decoding and prompts.
    """

    caches: list[torch.Tensor]
    write_index: torch.Tensor
    short: tuple[ShortRows, ...]
    chunks: tuple[LongChunk, ...]
    scratch: torch.Tensor
    query_multiple: int = 1
    kernels: Kernels | None = None
    """Runs `short`, read in place, if given."""
    planned: PlannedAttention | None = None
    """Runs all rows, in place of `short` and `chunks`, if given."""
    masks: dict[tuple[int | None, ...], torch.Tensor] = field(default_factory=dict)


def paged_attention(
    step: AttentionStep,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Writes `key` and `value` [1, K, T, D] to the cache of `layer` and attends.

    `query` is [1, H, T, D]; query head h uses key-value head h // G. Returns [1, T, H, D]. With
    `sliding_window` w a position sees itself and the w - 1 before it; `softcap` c bounds scores
    to c * tanh(score / c).
    """
    cache = step.caches[layer]
    num_heads, num_rows, dim = query.shape[1:]
    num_kv = key.shape[1]
    if step.kernels is not None:
        query, key, value = (
            t if t.stride(-1) == 1 else t.contiguous() for t in (query, key, value)
        )
        step.kernels.cache_write(cache, step.write_index, key, value)
    else:
        # [T, 2, K, D]
        states = torch.stack((key[0].transpose(0, 1), value[0].transpose(0, 1)), dim=1)
        cache.view(-1, 2, num_kv, dim).index_copy_(0, step.write_index, states)
    by_row = query[0].transpose(0, 1)
    if step.planned is not None:
        return step.planned.attend(by_row, cache, scaling, sliding_window, softcap).unsqueeze(0)
    # Zeros, not empty: rows that pad a step belong to no chunk.
    out = query.new_zeros(num_rows, num_heads, dim)
    for index, short in enumerate(step.short):
        if step.kernels is not None:
            step.kernels.attention(
                query, cache, short.tables, short.lengths, out, scaling, sliding_window, softcap
            )
            continue
        n = len(short.lengths)
        q = by_row[:n] if short.rows is None else by_row.index_select(0, short.rows)
        k, v = _gather(cache, short.tables, step.scratch)
        mask = _short_mask(step, index, k.shape[2], sliding_window, query.dtype)
        # Heads of one group become queries of one head: [n, K, G, D].
        grouped = q.reshape(n, num_kv, -1, dim)
        o = _attend(step, grouped, k, v, scaling, softcap, mask).reshape(n, num_heads, dim)
        if short.rows is None:
            out[:n] = o
        else:
            out.index_copy_(0, short.rows, o)
    for chunk in step.chunks:
        q = query[:, :, chunk.rows]
        end = chunk.start + q.shape[2]
        windowed = sliding_window is not None and sliding_window < end
        if chunk.start == 0 and softcap is None and not windowed and step.query_multiple == 1:
            o = F.scaled_dot_product_attention(
                q,
                key[:, :, chunk.rows],
                value[:, :, chunk.rows],
                scale=scaling,
                is_causal=True,
                enable_gqa=num_heads != num_kv,
            )
        else:
            k, v = _gather(cache, chunk.blocks.unsqueeze(0), step.scratch)
            mask = _chunk_mask(step, chunk.start, end, k.shape[2], sliding_window, q)
            # As above: [1, K, G * n, D].
            grouped = q.reshape(1, num_kv, -1, dim)
            repeated = mask.repeat(num_heads // num_kv, 1)[None, None]
            o = _attend(step, grouped, k, v, scaling, softcap, repeated)
            o = o.reshape(1, num_heads, -1, dim)
        out[chunk.rows] = o[0].transpose(0, 1)
    return out.unsqueeze(0)


def _gather(
    cache: torch.Tensor, tables: torch.Tensor, scratch: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [B, K, S, D] of the sequences in `tables` [B, blocks], S in whole blocks."""
    batch, num_blocks = tables.shape
    shape = (batch * num_blocks, *cache.shape[1:])
    size = batch * num_blocks * cache[0].numel()
    # Fresh memory for every layer of every step costs more in page faults than the copy itself.
    target = scratch[:size].view(shape) if size <= scratch.numel() else cache.new_empty(shape)
    torch.index_select(cache, 0, tables.reshape(-1), out=target)
    states = target.view(batch, -1, *cache.shape[2:])
    return states[:, :, 0].transpose(1, 2), states[:, :, 1].transpose(1, 2)


def _attend(
    step: AttentionStep,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scaling: float,
    softcap: float | None,
    mask: torch.Tensor,
) -> torch.Tensor:
    """[B, K, N, D] for queries of that shape; `mask` is [B, 1, N or 1, S]."""
    count = q.shape[2]
    missing = -count % step.query_multiple
    if missing:
        q = F.pad(q, (0, 0, 0, missing))
        if mask.shape[2] > 1:
            mask = F.pad(mask, (0, 0, 0, missing))
    if softcap is None:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
    else:
        scores = torch.tanh(q @ k.transpose(2, 3) * (scaling / softcap)) * softcap + mask
        out = scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
    return out[:, :, :count]


def _short_mask(
    step: AttentionStep, index: int, size: int, window: int | None, dtype: torch.dtype
) -> torch.Tensor:
    """[n, 1, 1, S], 0 where the row of `step.short[index]` sees the position, -inf elsewhere."""
    mask = step.masks.get((index, window))
    if mask is None:
        length = step.short[index].lengths.unsqueeze(1)
        position = torch.arange(size, device=length.device)
        hidden = position >= length
        if window is not None:
            hidden |= position < length - window
        mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
        mask = mask.masked_fill_(hidden, float("-inf"))[:, None, None]
        step.masks[index, window] = mask
    return mask


def _chunk_mask(
    step: AttentionStep, start: int, end: int, size: int, window: int | None, like: torch.Tensor
) -> torch.Tensor:
    """[end - start, size]: row i is position start + i and sees itself and what is before it."""
    key = (start, end, size, window)
    mask = step.masks.get(key)
    if mask is None:
        row = torch.arange(start, end, device=like.device).unsqueeze(1)
        position = torch.arange(size, device=like.device)
        hidden = position > row
        if window is not None:
            hidden |= position <= row - window
        mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
        mask.masked_fill_(hidden, float("-inf"))
        step.masks[key] = mask
    return mask
