"""Drawing the tokens of a step in one launch, in Triton: edits, filters and log-probabilities.

One program draws from one row. It keeps the row as 32-bit keys that order as the numbers do, and
never sorts it: the key where top-k, the nucleus and the draw end is found by halving the range of
keys and adding up what lies above, in the exact integers of `sampling.py`. As a rule it looks at a
shortlist: the first pass keeps the largest key of each lane, and the tokens from the `_needed`-th
largest of those on are few, and hold every token that is likely. Where they do not reach far
enough, or equals make them too many, the same search goes through the whole row.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from server.kernels.sampling import MAX_TOP, MAX_VOCABULARY, Drawn, Draws
from server.kernels.triton_keys import (
    EXPONENT,
    INFINITE,
    LARGEST,
    LOWEST,
    WITHOUT_MIN_P,
    cut_of,
    key_of,
    lanes_of,
    nth_equal,
    number_of,
    search,
    shorten,
    sum_from,
    weight_of,
)

_BLOCK = 2048
# So many log-probabilities beside the token's take the same code as none, `MAX_TOP` another:
# each number of its own would be compiled beside requests.
_FEW_TOPS = 8
# Bytes; kernels are compiled anew for addresses that are no multiples of it.
_ALIGNED = 16


def triton_draw(logits: torch.Tensor, draws: Draws, *, block: int = _BLOCK) -> Drawn:
    """Draws a token from each row of `logits` [N, V], as `sampling.Sampler`. A pass reads `block`
    numbers at a time; the result does not depend on it."""
    num_rows, size = logits.shape
    if size > MAX_VOCABULARY or draws.max_top > MAX_TOP:
        raise ValueError(f"{size} tokens, {draws.max_top} of them wanted: too many")
    if not num_rows:
        return Drawn([], [], [])
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    top = _FEW_TOPS if draws.max_top <= _FEW_TOPS else MAX_TOP
    short = block // 2
    keys = torch.empty(
        num_rows, size + 2 * short + 2 * top, dtype=torch.int32, device=logits.device
    )
    found = torch.empty(num_rows, 2 + 2 * top, dtype=torch.int32, device=logits.device)
    reals, counts, token_ids, values, masks = _on_device(draws, logits.device)
    _draw[(num_rows,)](
        logits, logits.stride(0), keys, keys.stride(0), found, found.stride(0),
        reals, counts, token_ids, values, masks, draws.masks.shape[1], size,
        BLOCK=block, CHUNKS=triton.next_power_of_2(triton.cdiv(size, block)), SHORT=short,
        NEEDED=block // 8, TOP=top, num_warps=8,
    )  # fmt: skip
    return _drawn(found.cpu().numpy(), draws, top, size)


def _on_device(draws: Draws, device: torch.device) -> tuple[torch.Tensor, ...]:
    """The fields of `draws` on the device, by one copy."""
    fields: tuple[npt.NDArray[Any], ...] = (
        draws.reals, draws.counts, draws.token_ids, draws.values, draws.masks,
    )  # fmt: skip
    ends = np.cumsum([-(-field.nbytes // _ALIGNED) * _ALIGNED for field in fields]).tolist()
    begins = [0, *ends[:-1]]
    buffer = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    host = buffer.numpy()
    for field, begin in zip(fields, begins, strict=True):
        host[begin : begin + field.nbytes] = np.ascontiguousarray(field).view(np.uint8).ravel()
    buffer = buffer.to(device, non_blocking=True)
    types = (torch.float64, torch.int64, torch.int32, torch.float32, torch.uint8)
    return tuple(
        buffer[begin : begin + field.nbytes].view(dtype)
        for field, begin, dtype in zip(fields, begins, types, strict=True)
    )


def _drawn(found: npt.NDArray[np.int32], draws: Draws, top: int, size: int) -> Drawn:
    wanted = np.minimum(draws.counts[:, 2], size).tolist()
    logprobs = found[:, 1].view(np.float32)
    ids = found[:, 2 : 2 + top].tolist()
    numbers = np.ascontiguousarray(found[:, 2 + top :]).view(np.float32).tolist()
    return Drawn(
        [None if token_id < 0 else token_id for token_id in found[:, 0].tolist()],
        logprobs.tolist(),
        [
            list(zip(own_ids[:count], own[:count], strict=True)) if count > 0 else []
            for own_ids, own, count in zip(ids, numbers, wanted, strict=True)
        ],
    )


@triton.jit
def _edit(keys, token_ids, values, begin, end, penalty, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """Bans tokens (0), adds values to their logits (1), or penalizes repetition (2)."""
    for start in range(begin, end, BLOCK):
        place = start + tl.arange(0, BLOCK)
        known = place < end
        target = keys + tl.load(token_ids + place, known, 0)
        if KIND == 0:
            tl.store(target, tl.full((BLOCK,), LOWEST, tl.int32), known)
        else:
            old_key = tl.load(target, known, 0)
            finite = (old_key > LOWEST) & (old_key < INFINITE)
            old = number_of(tl.where(finite, old_key, 0))
            if KIND == 1:
                new = old + tl.load(values + place, known, 0.0)
            else:
                new = tl.where(old < 0, old * penalty, tl.div_rn(old, penalty))
            new = tl.minimum(tl.maximum(new, -LARGEST), LARGEST)
            tl.store(target, tl.where(finite, key_of(new), old_key), known)
    tl.debug_barrier()


@triton.jit
def _allow(keys, size, mask, BLOCK: tl.constexpr):
    """Bans what a mask of bits does not allow. What is not finite stays: the row is lost."""
    for start in range(0, size, BLOCK):
        place = start + tl.arange(0, BLOCK)
        known = place < size
        key = tl.load(keys + place, known, 0)
        bits = tl.load(mask + place // 8, known, 0).to(tl.int32)
        allowed = ((bits >> (place % 8)) & 1) != 0
        tl.store(keys + place, tl.where(allowed | (key >= INFINITE), key, LOWEST), known)
    tl.debug_barrier()


@triton.jit
def _tops(
    keys, size, lanes, best, num, scratch, found, log_sum,
    BLOCK: tl.constexpr, SHORT: tl.constexpr, NEEDED: tl.constexpr, TOP: tl.constexpr,
):  # fmt: skip
    """The `num` largest keys, of equals the first, and their log-probabilities."""
    cut = cut_of(lanes, best, NEEDED)
    count = shorten(keys, size, cut, scratch, SHORT, BLOCK)
    is_short = num <= count
    source = keys + tl.where(is_short, size, 0)
    length = tl.where(is_short, count, size)
    low = tl.where(is_short, cut, LOWEST)
    last, above = search(source, length, low, best, num, 0.0, 0.0, False, BLOCK)
    taken, equals = 0, 0
    chosen = scratch + 2 * SHORT
    for start in range(0, length, BLOCK):
        place = start + tl.arange(0, BLOCK)
        known = place < length
        key = tl.load(source + place, known, LOWEST)
        token = tl.where(
            is_short, tl.load(scratch + SHORT + place, known & (place < SHORT), 0), place
        )
        same = (known & (key == last)).to(tl.int32)
        own = (same > 0) & (equals + tl.cumsum(same, 0) - 1 < num - above)
        inside = ((known & (key > last)) | own).to(tl.int32)
        target = taken + tl.cumsum(inside, 0) - 1
        tl.store(chosen + target, key, inside > 0)
        tl.store(chosen + TOP + target, token, inside > 0)
        taken += tl.sum(inside, 0)
        equals += tl.sum(same, 0)
    tl.debug_barrier()
    place = tl.arange(0, TOP)
    known = place < num
    key = tl.load(chosen + place, known, 0)
    ahead = (key[None, :] > key[:, None]) | (
        (key[None, :] == key[:, None]) & (place[None, :] < place[:, None])
    )
    rank = tl.sum((ahead & known[None, :]).to(tl.int32), 1)
    tl.store(found + 2 + rank, tl.load(chosen + TOP + place, known, 0), known)
    logprob = number_of(key) - number_of(best) - log_sum
    tl.store(found + 2 + TOP + rank, logprob.to(tl.int32, bitcast=True), known)
    # The shortlist is written anew for the draw.
    tl.debug_barrier()


@triton.jit
def _in_order(
    keys, size, top, factor, lowest, uniform,
    BLOCK: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """The token drawn from the keys from `lowest` on, in the order of tokens."""
    chunk, sums = tl.arange(0, CHUNKS), tl.zeros((CHUNKS,), tl.int64)
    for start in range(0, size, BLOCK):
        place = start + tl.arange(0, BLOCK)
        key = tl.load(keys + place, place < size, LOWEST)
        weight = tl.where(key >= lowest, weight_of(key, top, factor), 0)
        sums = tl.where(chunk == start // BLOCK, tl.sum(weight, 0), sums)
    target = (uniform * tl.sum(sums, 0).to(tl.float64)).to(tl.int64)
    own = tl.sum((tl.cumsum(sums, 0) <= target).to(tl.int32), 0)
    before = tl.sum(tl.where(chunk < own, sums, 0), 0)
    place = own * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(keys + place, place < size, LOWEST)
    weight = tl.where(key >= lowest, weight_of(key, top, factor), 0)
    return own * BLOCK + tl.sum((before + tl.cumsum(weight, 0) <= target).to(tl.int32), 0)


@triton.jit
def _by_score(
    keys, size, cut, best, top, factor, lowest, max_distance, top_k, top_p, uniform,
    BLOCK: tl.constexpr, SHORT: tl.constexpr,
):  # fmt: skip
    """The token drawn from what top-k, top-p and min-p keep, in the order of scores."""
    short = keys + size
    count = shorten(keys, size, cut, short, SHORT, BLOCK)
    weight = sum_from(short, count, LOWEST, top, factor, True, BLOCK)
    if top_k < size:
        ok = top_k <= count
        source, length = keys + tl.where(ok, size, 0), tl.where(ok, count, size)
        last, above = search(
            source, length, tl.where(ok, cut, LOWEST), best, top_k, top, factor, False, BLOCK
        )
        kept = sum_from(source, length, last.to(tl.int64) + 1, top, factor, True, BLOCK)
        kept += (top_k - above) * weight_of(last, top, factor)
    else:
        kept = sum_from(keys, size, LOWEST, top, factor, True, BLOCK)
    if top_p < 1.0:
        nucleus = top_p * kept.to(tl.float64)
        target = nucleus.to(tl.int64)
        target += (target.to(tl.float64) < nucleus).to(tl.int64)
        target = tl.minimum(tl.maximum(target, 1), kept)
        ok = target <= weight
        source, length = keys + tl.where(ok, size, 0), tl.where(ok, count, size)
        last, above = search(
            source, length, tl.where(ok, cut, LOWEST), best, target, top, factor, True, BLOCK
        )
        own = weight_of(last, top, factor)
        kept = above + (target - above + own - 1) // own * own
    if max_distance < WITHOUT_MIN_P:
        ok = (count > 0) & (lowest >= cut)
        source, length = keys + tl.where(ok, size, 0), tl.where(ok, count, size)
        kept = tl.minimum(kept, sum_from(source, length, lowest, top, factor, True, BLOCK))
    target = (uniform * kept.to(tl.float64)).to(tl.int64)
    ok = target < weight
    source, length = keys + tl.where(ok, size, 0), tl.where(ok, count, size)
    last, above = search(
        source, length, tl.where(ok, cut, LOWEST), best, target + 1, top, factor, True, BLOCK
    )
    place = nth_equal(source, length, last, (target - above) // weight_of(last, top, factor), BLOCK)
    return tl.where(ok, tl.load(short + SHORT + tl.minimum(place, SHORT - 1)), place)


@triton.jit
def _lowest_allowed(best, top, factor, max_distance):
    """The smallest key that min-p keeps."""
    low, high = tl.full((), LOWEST, tl.int64), best.to(tl.int64)
    while low < high:
        middle = (low + high) >> 1
        distance = (top - number_of(middle.to(tl.int32))).to(tl.float64) * factor
        if (tl.minimum(distance, EXPONENT) * 4294967296.0).to(tl.int64) <= max_distance:
            high = middle
        else:
            low = middle + 1
    return low.to(tl.int32)


@triton.jit
def _draw(
    logits, row_stride, keys, key_stride, found, found_stride,
    reals, counts, token_ids, values, masks, mask_bytes, size,
    BLOCK: tl.constexpr, CHUNKS: tl.constexpr, SHORT: tl.constexpr, NEEDED: tl.constexpr,
    TOP: tl.constexpr,
):  # fmt: skip
    """One row: its token, that one's log-probability, and the likeliest with theirs."""
    row = tl.program_id(0).to(tl.int64)
    logits, keys, found = (
        logits + row * row_stride,
        keys + row * key_stride,
        found + row * found_stride,
    )
    reals, counts = reals + row * 4, counts + row * 9
    num_top = tl.load(counts + 2)
    largest = tl.full((BLOCK,), float("-inf"), tl.float32)
    sums = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, size, BLOCK):
        place = start + tl.arange(0, BLOCK)
        x = tl.load(logits + place, place < size, float("-inf")).to(tl.float32)
        tl.store(keys + place, key_of(x), place < size)
        if num_top >= 0:
            new = tl.maximum(largest, x)
            base = tl.where(new == float("-inf"), 0.0, new)
            sums = sums * tl.exp(largest - base) + tl.exp(x - base)
            largest = new
    tl.debug_barrier()
    lanes, owners = lanes_of(keys, size, BLOCK)
    best = tl.max(lanes, 0)
    highest, log_sum = number_of(best), 0.0
    if num_top >= 0:
        peak = tl.max(largest, 0)
        peak = tl.where(peak == float("-inf"), 0.0, peak)
        log_sum = tl.log(tl.sum(sums * tl.exp(largest - peak), 0))
        if num_top > 0:
            _tops(
                keys, size, lanes, best, tl.minimum(num_top, size), keys + size, found, log_sum,
                BLOCK, SHORT, NEEDED, TOP,
            )  # fmt: skip
    banned, biased = tl.load(counts + 4).to(tl.int32), tl.load(counts + 5).to(tl.int32)
    repeated, lowered = tl.load(counts + 6).to(tl.int32), tl.load(counts + 7).to(tl.int32)
    end, mask = tl.load(counts + 8).to(tl.int32), tl.load(counts + 3)
    if (banned < end) | (mask >= 0):
        penalty = tl.load(reals + 3).to(tl.float32)
        _edit(keys, token_ids, values, banned, biased, penalty, 0, BLOCK)
        _edit(keys, token_ids, values, biased, repeated, penalty, 1, BLOCK)
        _edit(keys, token_ids, values, repeated, lowered, penalty, 2, BLOCK)
        _edit(keys, token_ids, values, lowered, end, penalty, 1, BLOCK)
        if mask >= 0:
            _allow(keys, size, masks + mask * mask_bytes, BLOCK)
        lanes, owners = lanes_of(keys, size, BLOCK)
        best = tl.max(lanes, 0)
    token = tl.min(tl.where(lanes == best, owners, size), 0)
    factor = tl.load(reals)
    finite = (best > LOWEST) & (best < INFINITE)
    if finite & (factor > 0.0):
        top = number_of(best)
        max_distance, top_k = tl.load(counts + 1), tl.load(counts)
        top_p, uniform = tl.load(reals + 1), tl.load(reals + 2)
        lowest = tl.full((), LOWEST, tl.int32)
        if max_distance < WITHOUT_MIN_P:
            lowest = _lowest_allowed(best, top, factor, max_distance)
        if (top_k < size) | (top_p < 1.0):
            cut = cut_of(lanes, best, NEEDED)
            token = _by_score(
                keys, size, cut, best, top, factor, lowest, max_distance, top_k, top_p, uniform,
                BLOCK, SHORT,
            ).to(tl.int32)  # fmt: skip
        else:
            token = _in_order(keys, size, top, factor, lowest, uniform, BLOCK, CHUNKS).to(tl.int32)
    tl.store(found, tl.where(finite, token, -1))
    if num_top >= 0:
        logprob = tl.load(logits + token).to(tl.float32) - highest - log_sum
        tl.store(found + 1, logprob.to(tl.int32, bitcast=True))
