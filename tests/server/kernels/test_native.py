"""The native kernels equal the plain forms, and no row depends on its neighbours."""

import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import bitsandbytes.functional as bnb
import pytest
import torch
import torch.nn.functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from server.kernels import LoraGroup, Native, describe, load_native, lora_rows
from server.kernels.native import __file__ as _FILE
from server.kernels.reference import attention_reference, lora_reference
from server.models.weights import take_weight

_NATIVE = load_native()
pytestmark = pytest.mark.skipif(
    _NATIVE is None, reason="the native kernels were not compiled, or not for this CPU"
)
_DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)


@pytest.fixture
def native() -> Native:
    assert _NATIVE is not None
    return _NATIVE


@pytest.fixture
def native_linear(native: Native) -> Native:
    if not native.runs_linear(torch.bfloat16):
        pytest.skip("this CPU has no AMX")
    return native


def _random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


def _close(got: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    """Within one rounding of the result to `dtype`."""
    tolerance = {torch.bfloat16: 2**-8, torch.float32: 2e-6}[dtype]
    scale = expected.abs().max().item()
    assert got.dtype == dtype
    assert (got.double() - expected.double()).abs().max().item() <= tolerance * scale


_Adapters = list[tuple[dict[int, LoraGroup], torch.Tensor, list[torch.Tensor]]]


def _adapters(ranks: list[int], columns: list[int], size: int, dtype: torch.dtype) -> _Adapters:
    """Adapters of group 1 of 3: their groups, and the A and B of each member."""
    made: _Adapters = []
    for seed, rank in enumerate(ranks):
        a = _random(rank * len(columns), size, seed=seed, dtype=dtype)
        bs, parts, start = [], [], 0
        for i, width in enumerate(columns):
            b = _random(rank, width, seed=100 + seed + i, dtype=dtype)
            rows = slice(i * rank, (i + 1) * rank)
            parts.append((slice(start, start + width), rows, b))
            bs.append(b)
            start += width
        made.append(({1: LoraGroup(a, tuple(parts))}, a, bs))
    return made


@_DTYPES
@pytest.mark.parametrize("size", [40, 64, 96])
def test_lora(native: Native, dtype: torch.dtype, size: int) -> None:
    """Adapters of several ranks, one that leaves the group alone, runs of several lengths."""
    columns, counts = [70, 16, 130], [1, 2, 3, 9, 4]
    made = _adapters([8, 3, 16, 1], columns, size, dtype)
    updates = [describe(groups, 3) for groups, _, _ in made]
    updates.insert(2, describe({}, 3))
    owners = [0, 1, None, 2, 3]
    first = 2
    bounds = [first + sum(counts[:i]) for i in range(len(counts) + 1)]
    x, before = _random(bounds[-1], size, dtype=dtype), _random(bounds[-1], 216, dtype=dtype)
    expected = before.double()
    for run, owner in enumerate(owners):
        if owner is None:
            continue
        _, a, bs = made[owner]
        start = 0
        for i, b in enumerate(bs):
            own_a = a[i * len(b) : (i + 1) * len(b)].double()
            span = slice(start, start + columns[i])
            rows = slice(bounds[run], bounds[run + 1])
            adapters = [(own_a, b.double().t(), 1.0)] * counts[run]
            expected[rows, span] = lora_reference(x[rows].double(), adapters, expected[rows, span])
            start += columns[i]
    out = before.clone()
    rows_of_step = lora_rows(native, bounds, updates, dtype)
    native.lora(rows_of_step, 1, x, out)
    _close(out, expected, dtype)
    assert torch.equal(out[:first], before[:first])
    untouched = before.clone()
    native.lora(rows_of_step, 0, x, untouched)
    assert torch.equal(untouched, before)


@_DTYPES
@pytest.mark.parametrize("heads", [(4, 2), (6, 1), (3, 3), (9, 3)], ids=str)
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (6, None), (100, 2.0)])
def test_attention(
    native: Native, dtype: torch.dtype, heads: tuple[int, int], window: int | None,
    softcap: float | None,
) -> None:  # fmt: skip
    num_heads, num_kv = heads
    block_size, dim = 4, 80
    lengths = [1, 5, 16, 17, 40]
    cache = torch.full((64, block_size, 2, num_kv, dim), math.nan, dtype=dtype)
    tables = torch.zeros(len(lengths), 10, dtype=torch.int64)
    free = list(range(1, 64))
    expected = []
    query = _random(1, num_heads, len(lengths), dim, dtype=dtype)
    for i, length in enumerate(lengths):
        key, value = (_random(num_kv, length, dim, seed=s + i, dtype=dtype) for s in (7, 77))
        for j in range(-(-length // block_size)):
            tables[i, j] = free.pop()
        places = torch.tensor(
            [int(tables[i, p // block_size]) * block_size + p % block_size for p in range(length)]
        )
        native.cache_write(cache, places, key.unsqueeze(0), value.unsqueeze(0))
        own = (t.double() for t in (query[0, :, i : i + 1], key, value))
        expected.append(attention_reference(*own, 0.2, window, softcap))
    out = torch.zeros(len(lengths) + 1, num_heads, dim, dtype=dtype)
    native.attention(query, cache, tables, torch.tensor(lengths), out, 0.2, window, softcap)
    _close(out[:-1], torch.cat(expected), dtype)
    assert not out[-1].any()


@pytest.mark.parametrize("num_rows", [1, 15, 16, 17, 33, 96])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear(native_linear: Native, num_rows: int, with_bias: bool) -> None:
    x = _random(num_rows, 128, dtype=torch.bfloat16)
    weight = _random(96, 128, seed=1, dtype=torch.bfloat16)
    bias = _random(96, seed=2, dtype=torch.bfloat16) if with_bias else None
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    got = native_linear.linear(x, weight, bias)
    _close(got, expected, torch.bfloat16)
    # The same bits alone and beside others.
    assert torch.equal(native_linear.linear(x[:1], weight, bias), got[:1])


@pytest.mark.parametrize("num_rows", [1, 16, 40])
def test_linear_nf4(native_linear: Native, num_rows: int) -> None:
    """The product with the very numbers of bitsandbytes' dequantization."""
    x = _random(num_rows, 192, dtype=torch.bfloat16)
    codes, state = bnb.quantize_4bit(
        _random(96, 192, seed=1, dtype=torch.bfloat16), blocksize=64, quant_type="nf4"
    )
    dense = bnb.dequantize_4bit(codes, state)
    got = native_linear.linear_nf4(x, codes, state.absmax, state.code, None, 96)
    assert torch.equal(got, native_linear.linear(x, dense, None))
    _close(got, F.linear(x.double(), dense.double()), torch.bfloat16)


def test_linear_takes_lora_along(native_linear: Native) -> None:
    x = _random(12, 128, dtype=torch.bfloat16)
    weight = _random(96, 128, seed=1, dtype=torch.bfloat16)
    made = _adapters([8, 5], [64, 32], 128, torch.bfloat16)
    updates = [describe(groups, 2) for groups, _, _ in made]
    rows = lora_rows(native_linear, [1, 5, 12], updates, torch.bfloat16)
    expected = native_linear.linear(x, weight, None)
    native_linear.lora(rows, 1, x, expected)
    assert torch.equal(native_linear.linear(x, weight, None, (rows, 1)), expected)


@_DTYPES
def test_rms_norm(native: Native, dtype: torch.dtype) -> None:
    norm = LlamaRMSNorm(72, eps=1e-5)
    norm.weight.data = _random(72, seed=3)
    x = _random(3, 5, 72, dtype=dtype)
    expected = norm.to(dtype)(x)
    _close(native.rms_norm(x, norm.weight.data, 1e-5), expected, dtype)


@_DTYPES
def test_silu_mul(native: Native, dtype: torch.dtype) -> None:
    x = torch.cat([_random(4, 60) * 5, torch.tensor([[-1e4, 1e4, -90.0, 90.0, 0.0] * 12] * 1)])
    gate, up = x.to(dtype), _random(5, 60, seed=1, dtype=dtype)
    expected = F.silu(gate.double()) * up.double()
    got = native.silu_mul(torch.cat([gate, up], dim=1))
    assert got.shape == (5, 60)
    for row, wanted in zip(got, expected, strict=True):
        _close(row, wanted, dtype)


@_DTYPES
def test_a_fault_stays_in_its_row(native: Native, dtype: torch.dtype) -> None:
    """A row, or a cache, that is not finite shows in that row and in no other."""
    x = _random(3, 128, dtype=dtype)
    x[1, 5] = math.nan
    assert native.rms_norm(x, torch.ones(128, dtype=dtype), 1e-5).isnan().any(1).tolist() == [
        False, True, False,
    ]  # fmt: skip
    assert native.silu_mul(x).isnan().any(1).tolist() == [False, True, False]
    made = _adapters([8], [64], 128, dtype)
    updates = describe(made[0][0], 2)
    out = torch.zeros(3, 64, dtype=dtype)
    native.lora(lora_rows(native, [0, 3], [updates], dtype), 1, x, out)
    assert out.isnan().any(1).tolist() == [False, True, False]
    for fault in (math.nan, math.inf):
        cache = torch.ones(3, 16, 2, 1, 64, dtype=dtype)
        cache[1, 3, 0] = fault
        query = torch.ones(1, 2, 2, 64, dtype=dtype)
        seen = torch.zeros(2, 2, 64, dtype=dtype)
        native.attention(
            query, cache, torch.tensor([[1], [2]]), torch.tensor([8, 8]), seen, 1.0, None, None
        )
        assert not seen[0].isfinite().any()
        assert seen[1].isfinite().all()


def test_mixed_types_are_refused(native: Native) -> None:
    """The kernels see addresses: two types in one call would read beyond the smaller one."""
    half, full = torch.ones(1, 2, 3, 64, dtype=torch.bfloat16), torch.ones(1, 2, 3, 64)
    cache, out = torch.zeros(2, 16, 2, 2, 64, dtype=torch.bfloat16), torch.zeros(3, 2, 64)
    places = torch.tensor([16, 17, 18])
    tables, lengths = torch.ones(3, 1, dtype=torch.int64), torch.tensor([1, 2, 3])
    for key, value in ((full, half), (half, full), (full, full)):
        with pytest.raises(TypeError, match="takes one type"):
            native.cache_write(cache, places, key, value)
    for query in (half, full):
        with pytest.raises(TypeError, match="takes one type"):
            native.attention(query, cache, tables, lengths, out, 1.0, None, None)
    with pytest.raises(TypeError, match="takes one type"):
        native.rms_norm(full, torch.ones(64, dtype=torch.bfloat16), 1e-5)
    updates = describe(_adapters([8], [64], 128, torch.bfloat16)[0][0], 2)
    rows = lora_rows(native, [0, 3], [updates], torch.bfloat16)
    with pytest.raises(TypeError, match="takes one type"):
        native.lora(rows, 1, torch.ones(3, 128), torch.zeros(3, 64))


@_DTYPES
def test_lora_of_columns_that_do_not_lie_side_by_side(native: Native, dtype: torch.dtype) -> None:
    made = _adapters([8], [64], 128, dtype)
    rows = lora_rows(native, [0, 3], [describe(made[0][0], 2)], dtype)
    x = _random(128, 3, dtype=dtype).t()
    expected, got = torch.zeros(3, 64, dtype=dtype), torch.zeros(3, 64, dtype=dtype)
    native.lora(rows, 1, x.contiguous(), expected)
    native.lora(rows, 1, x, got)
    assert torch.equal(got, expected)


def test_only_this_pythons_library_is_loaded(
    native: Native, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that another Python's installation left behind may be older than these sources."""
    own = next(
        p for s in EXTENSION_SUFFIXES if (p := Path(_FILE).with_name("_native" + s)).exists()
    )
    monkeypatch.setattr("server.kernels.native.__file__", str(tmp_path / "native.py"))
    shutil.copy(own, tmp_path / "_native.cpython-30-x86_64-linux-gnu.so")
    assert load_native.__wrapped__() is None
    shutil.copy(own, tmp_path / f"_native{EXTENSION_SUFFIXES[0]}")
    assert load_native.__wrapped__() is not None


def test_threads_and_torchs_products_do_not_disturb_each_other(native_linear: Native) -> None:
    """Tile registers belong to a thread, and torch's products configure them for themselves."""
    x, other = _random(5, 128, dtype=torch.bfloat16), _random(128, 128, dtype=torch.bfloat16)
    weight = _random(64, 128, seed=1, dtype=torch.bfloat16)
    heads = _random(1, 4, 100, 64, dtype=torch.bfloat16)
    expected = native_linear.linear(x, weight, None)

    def agree(_: int) -> bool:
        F.linear(other, weight)
        F.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        return torch.equal(native_linear.linear(x, weight, None), expected)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(agree, range(100)))


@pytest.mark.parametrize("odd", ["bias", "weight", "input"])
def test_a_product_of_mixed_types_stays_with_torch(native_linear: Native, odd: str) -> None:
    weight, bias = torch.ones(32, 64, dtype=torch.bfloat16), torch.ones(32)
    linear = torch.nn.Linear(64, 32)
    linear.weight.data, linear.bias.data = weight, bias.to(torch.bfloat16)
    assert _takes(linear, native_linear, torch.ones(1, 64, dtype=torch.bfloat16))
    if odd == "bias":
        linear.bias.data = bias
    elif odd == "weight":
        linear.weight.data = weight.float()
    x = torch.ones(1, 64, dtype=torch.float32 if odd == "input" else torch.bfloat16)
    assert not _takes(linear, native_linear, x)


def _takes(linear: torch.nn.Linear, native: Native, x: torch.Tensor) -> bool:
    weight = take_weight([linear], hold=False, int8_threshold=0.0, kernels=native)
    return weight.takes_lora(x)
