"""Rows of logits as 32-bit keys that order as the numbers do, and searches in them, in Triton.

Nothing here depends on how many keys a pass reads at a time: counts and weights are integers. A
weight is that of `sampling.weights_of`; `top` is the row's largest number, `factor` as in
`sampling.Draws`.
"""

import triton
import triton.language as tl

from server.kernels.sampling import MAX_EXPONENT, NO_MIN_P, POLYNOMIAL, WEIGHT_SHIFT

# Keys of -inf, +inf and NaN: negative numbers have their bits turned around.
LOWEST = tl.constexpr(-2139095041)
INFINITE = tl.constexpr(0x7F800000)
_NAN = tl.constexpr(0x7FC00000)
LARGEST = tl.constexpr(3.4028234663852886e38)
_C0, _C1, _C2, _C3, _C4, _C5, _C6 = (tl.constexpr(c) for c in POLYNOMIAL)
_SHIFT = tl.constexpr(WEIGHT_SHIFT)
EXPONENT = tl.constexpr(float(MAX_EXPONENT))
WITHOUT_MIN_P = tl.constexpr(NO_MIN_P)


@triton.jit
def number_of(key):
    """The float32 that a key stands for."""
    return tl.where(key >= 0, key, key ^ 0x7FFFFFFF).to(tl.float32, bitcast=True)


@triton.jit
def key_of(x):
    """The key of a float32; both zeros have one, and all that are not numbers."""
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    return tl.where(x != x, _NAN, tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF))


@triton.jit
def weight_of(key, top, factor):
    """As `sampling.weights_of`, of keys up to that of `top`."""
    number = tl.where(key >= 0, key, key ^ 0x7FFFFFFF).to(tl.float32, bitcast=True)
    distance = tl.minimum((top - number).to(tl.float64) * factor, EXPONENT)
    distance = (distance * 4294967296.0).to(tl.int64)
    fraction = distance & 0xFFFFFFFF
    weight = _C5 - ((fraction * _C6) >> 32)
    weight = _C4 - ((fraction * weight) >> 32)
    weight = _C3 - ((fraction * weight) >> 32)
    weight = _C2 - ((fraction * weight) >> 32)
    weight = _C1 - ((fraction * weight) >> 32)
    weight = _C0 - ((fraction * weight) >> 32)
    return (weight << _SHIFT) >> (distance >> 32)


@triton.jit
def sum_from(keys, size, cut, top, factor, WEIGHED: tl.constexpr, BLOCK: tl.constexpr):
    """How many of the keys are at least `cut`; with WEIGHED, what they weigh."""
    total = tl.zeros((BLOCK,), tl.int64)
    for start in range(0, size, BLOCK):
        place = start + tl.arange(0, BLOCK)
        key = tl.load(keys + place, place < size, LOWEST)
        inside = (place < size) & (key >= cut)
        if WEIGHED:
            total += tl.where(inside, weight_of(key, top, factor), 0)
        else:
            total += inside.to(tl.int64)
    return tl.sum(total, 0)


@triton.jit
def search(keys, size, low, high, target, top, factor, WEIGHED: tl.constexpr, BLOCK: tl.constexpr):
    """The largest cut from `low` to `high` above which, itself included, there is at least
    `target`; and how much there is above it, itself left out."""
    low, high = low.to(tl.int64), high.to(tl.int64)
    while low < high:
        middle = (low + high + 1) >> 1
        if sum_from(keys, size, middle, top, factor, WEIGHED, BLOCK) >= target:
            low = middle
        else:
            high = middle - 1
    return low.to(tl.int32), sum_from(keys, size, low + 1, top, factor, WEIGHED, BLOCK)


@triton.jit
def nth_equal(keys, size, cut, nth, BLOCK: tl.constexpr):
    """The place of the key that equals `cut` and comes after `nth` others."""
    place = tl.arange(0, BLOCK)
    found = tl.zeros((BLOCK,), tl.int32)
    seen = 0
    for start in range(0, size, BLOCK):
        at = start + place
        same = ((at < size) & (tl.load(keys + at, at < size, LOWEST) == cut)).to(tl.int32)
        found += tl.where((same > 0) & (seen + tl.cumsum(same, 0) - 1 == nth), at, 0)
        seen += tl.sum(same, 0)
    return tl.sum(found, 0)


@triton.jit
def shorten(keys, size, cut, short, SHORT: tl.constexpr, BLOCK: tl.constexpr):
    """Writes the keys from `cut` on, and behind SHORT of them their tokens, in the order of
    tokens; returns how many there are, 0 for too many."""
    count = 0
    for start in range(0, size, BLOCK):
        place = start + tl.arange(0, BLOCK)
        key = tl.load(keys + place, place < size, LOWEST)
        inside = ((place < size) & (key >= cut)).to(tl.int32)
        target = count + tl.cumsum(inside, 0) - 1
        known = (inside > 0) & (target < SHORT)
        tl.store(short + target, key, known)
        tl.store(short + SHORT + target, place, known)
        count += tl.sum(inside, 0)
    tl.debug_barrier()
    return tl.where(count > SHORT, 0, count)


@triton.jit
def cut_of(lanes, best, NEEDED: tl.constexpr):
    """The NEEDED-th largest of the lanes' own largest keys: so many tokens, at least, are there."""
    low, high = tl.full((), LOWEST, tl.int64), best.to(tl.int64)
    while low < high:
        middle = (low + high + 1) >> 1
        if tl.sum((lanes >= middle).to(tl.int32), 0) >= NEEDED:
            low = middle
        else:
            high = middle - 1
    return low.to(tl.int32)


@triton.jit
def lanes_of(keys, size, BLOCK: tl.constexpr):
    """Each lane's largest key and the first token that has it."""
    lanes = tl.full((BLOCK,), LOWEST - 1, tl.int32)
    owners = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, size, BLOCK):
        place = start + tl.arange(0, BLOCK)
        key = tl.load(keys + place, place < size, LOWEST - 1)
        owners = tl.where(key > lanes, place, owners)
        lanes = tl.maximum(lanes, key)
    return lanes, owners
