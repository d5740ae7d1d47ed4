"""The native kernels at any shape: close to float64, and no access beyond their tensors."""

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import bitsandbytes.functional as bnb
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.kernels import LoraGroup, Native, describe, load_native, lora_rows
from server.kernels.reference import attention_reference

_NATIVE = load_native()
pytestmark = pytest.mark.skipif(
    _NATIVE is None, reason="the native kernels were not compiled, or not for this CPU"
)
_LIBC = ctypes.CDLL(None, use_errno=True)
_PAGE = mmap.PAGESIZE
_DTYPES = st.sampled_from([torch.bfloat16, torch.float32])
_SEEDS = st.integers(0, 2**31)
_MANY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def _forbid(address: int) -> None:
    pages = ctypes.c_void_p(address), ctypes.c_size_t(_PAGE), ctypes.c_int(0)
    assert _LIBC.mprotect(*pages) == 0, ctypes.get_errno()


def _fenced(like: torch.Tensor, *, at_end: bool = True) -> torch.Tensor:
    """A copy that ends (or begins) at a page that must not be touched: who does ends the test."""
    whole = -(-max(like.nbytes, 1) // _PAGE) * _PAGE
    memory = mmap.mmap(-1, whole + 2 * _PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    _forbid(address)
    _forbid(address + _PAGE + whole)
    if not like.numel():
        return like
    offset = _PAGE + (whole - like.nbytes if at_end else 0)
    tensor = torch.frombuffer(memory, dtype=like.dtype, count=like.numel(), offset=offset)
    return tensor.view(like.shape).copy_(like)


@contextmanager
def _fenced_outputs() -> Iterator[None]:
    """What the kernels' callers allocate is fenced too."""

    def new_empty(self: torch.Tensor, *shape: int) -> torch.Tensor:
        return _fenced(torch.full(shape, torch.nan, dtype=self.dtype))

    def empty_like(x: torch.Tensor) -> torch.Tensor:
        return _fenced(torch.full(x.shape, torch.nan, dtype=x.dtype))

    with (
        mock.patch.object(torch.Tensor, "new_empty", new_empty),
        mock.patch.object(torch, "empty_like", empty_like),
    ):
        yield


def _native(linear: bool = False) -> Native:
    assert _NATIVE is not None
    if linear and not _NATIVE.runs_linear(torch.bfloat16):
        pytest.skip("this CPU has no AMX")
    return _NATIVE


class _Random:
    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._dtype = dtype
        self._at_end = seed % 2 == 0

    def __call__(self, *shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=self._generator).to(self._dtype)
        return _fenced(values, at_end=self._at_end)


def _close(got: torch.Tensor, expected: torch.Tensor, scale: torch.Tensor) -> None:
    """Within one rounding of the result, and of sums whose terms have the magnitude `scale`."""
    unit = torch.finfo(got.dtype).eps
    bound = unit * expected.abs() + 64 * torch.finfo(torch.float32).eps * scale + 1e-30
    excess = ((got.double() - expected).abs() / bound).max().item() if got.numel() else 0.0
    assert excess <= 1.0, excess


@_MANY
@given(
    rows=st.integers(0, 97), blocks_in=st.integers(1, 5), tiles_out=st.integers(1, 5),
    bias=st.booleans(), packed=st.booleans(), seed=_SEEDS,
)  # fmt: skip
def test_linear(
    rows: int, blocks_in: int, tiles_out: int, bias: bool, packed: bool, seed: int
) -> None:
    native = _native(linear=True)
    random = _Random(seed, torch.bfloat16)
    size_in, size_out = 64 * blocks_in, 32 * tiles_out
    x, weight = random(rows, size_in), random(size_out, size_in)
    added = random(size_out) if bias else None
    with _fenced_outputs():
        if packed:
            codes, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
            weight = bnb.dequantize_4bit(codes, state)
            codes, scales, code = (_fenced(t) for t in (codes, state.absmax, state.code))
            got = native.linear_nf4(x, codes, scales, code, added, size_out)
        else:
            got = native.linear(x, weight, added)
    wanted = F.linear(x.double(), weight.double(), None if added is None else added.double())
    _close(got, wanted, x.double().abs() @ weight.double().abs().t())


@_MANY
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=5), skipped=st.integers(0, 3),
    size=st.integers(1, 140), ranks=st.lists(st.integers(1, 19), min_size=5, max_size=5),
    columns=st.lists(st.integers(1, 150), min_size=1, max_size=4), missing=st.integers(0, 5),
    dtype=_DTYPES, seed=_SEEDS,
)  # fmt: skip
def test_lora(
    counts: list[int], skipped: int, size: int, ranks: list[int], columns: list[int],
    missing: int, dtype: torch.dtype, seed: int,
) -> None:  # fmt: skip
    """Runs of any length, also empty; one adapter may leave the group alone."""
    native = _native()
    random = _Random(seed, dtype)
    bounds = [skipped + sum(counts[:i]) for i in range(len(counts) + 1)]
    x, out = random(bounds[-1], size), random(bounds[-1], sum(columns))
    expected, scale = out.double(), out.double().abs()
    updates, held = [], []  # `held`: updates are addresses.
    for run, rank in zip(range(len(counts)), ranks, strict=False):
        rows = slice(bounds[run], bounds[run + 1])
        parts: list[tuple[slice, slice, torch.Tensor]] = []
        a, column = random(rank * len(columns), size), 0
        for i, width in enumerate(columns):
            own, b = slice(i * rank, (i + 1) * rank), random(rank, width)
            span = slice(column, column + width)
            parts.append((span, own, b))
            column += width
            if run != missing:
                h = x[rows].double() @ a[own].double().t()
                expected[rows, span] += h @ b.double()
                size_of_h = x[rows].double().abs() @ a[own].double().abs().t()
                scale[rows, span] += size_of_h @ b.double().abs()
        groups = {} if run == missing else {1: LoraGroup(a, tuple(parts))}
        held.append(groups)
        updates.append(describe(groups, 2))
    native.lora(lora_rows(native, bounds, updates, dtype), 1, x, out)
    _close(out, expected, scale)


@_MANY
@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=4), dim=st.integers(1, 150),
    num_kv=st.integers(1, 3), group=st.integers(1, 9), block_size=st.integers(1, 20),
    window=st.none() | st.integers(1, 40), softcap=st.none() | st.floats(0.5, 50),
    dtype=_DTYPES, seed=_SEEDS,
)  # fmt: skip
def test_attention(
    lengths: list[int], dim: int, num_kv: int, group: int, block_size: int, window: int | None,
    softcap: float | None, dtype: torch.dtype, seed: int,
) -> None:  # fmt: skip
    native = _native()
    random = _Random(seed, dtype)
    needed = [-(-length // block_size) for length in lengths]
    cache = random(sum(needed) + 1, block_size, 2, num_kv, dim).fill_(torch.nan)
    order = torch.randperm(sum(needed), generator=torch.Generator().manual_seed(seed))
    free = (order + 1).tolist()
    tables = torch.zeros(len(lengths), max(needed), dtype=torch.int64)
    query = random(1, num_kv * group, len(lengths), dim)
    expected = []
    for i, length in enumerate(lengths):
        tables[i, : needed[i]] = torch.tensor([free.pop() for _ in range(needed[i])])
        key, value = random(1, num_kv, length, dim), random(1, num_kv, length, dim)
        position = torch.arange(length)
        places = tables[i, position // block_size] * block_size + position % block_size
        native.cache_write(cache, _fenced(places), key, value)
        own = (t.double() for t in (query[0, :, i : i + 1], key[0], value[0]))
        expected.append(attention_reference(*own, dim**-0.5, window, softcap))
    out = random(len(lengths), num_kv * group, dim).fill_(torch.nan)
    native.attention(
        query, cache, _fenced(tables), _fenced(torch.tensor(lengths)), out, dim**-0.5, window,
        softcap,
    )  # fmt: skip
    wanted = torch.cat(expected)
    # Values are about 1 in size, and weights sum to 1.
    _close(out, wanted, torch.full_like(wanted, 4.0))


@_MANY
@given(shape=st.tuples(st.integers(1, 9), st.integers(1, 200)), dtype=_DTYPES, seed=_SEEDS)
def test_rows(shape: tuple[int, int], dtype: torch.dtype, seed: int) -> None:
    native = _native()
    random = _Random(seed, dtype)
    num_rows, size = shape
    x, weight, pair = random(num_rows, size), random(size), random(num_rows, 2 * size)
    with _fenced_outputs():
        normed, product = native.rms_norm(x, weight, 1e-6), native.silu_mul(pair)
    root = (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    wanted = weight.double() * (x.double() / root)
    # Rounded twice.
    _close(normed, wanted, torch.finfo(dtype).eps / torch.finfo(torch.float32).eps * wanted.abs())
    gate, up = pair.double().split(size, dim=-1)
    wanted = F.silu(gate) * up
    _close(product, wanted, torch.finfo(dtype).eps / torch.finfo(torch.float32).eps * wanted.abs())


@pytest.mark.parametrize("at_end", [False, True])
def test_the_fence_is_there(at_end: bool) -> None:
    """The operating system refuses to read beside a fenced tensor, and reads what it holds."""
    tensor = _fenced(torch.ones(3), at_end=at_end)
    beside = tensor.data_ptr() + (tensor.nbytes if at_end else -1)
    reading, writing = os.pipe()
    try:
        assert _LIBC.write(writing, ctypes.c_void_p(tensor.data_ptr()), tensor.nbytes) == 12
        assert _LIBC.write(writing, ctypes.c_void_p(beside), 1) == -1
        assert ctypes.get_errno() == errno.EFAULT
    finally:
        os.close(reading)
        os.close(writing)
