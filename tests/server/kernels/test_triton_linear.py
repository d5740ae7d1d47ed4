"""Triton's product with NF4 weights, norm and activation equal bitsandbytes and transformers."""

# ruff: noqa: I001  # the interpreter must be chosen before the kernels are defined
from tests.server.kernels.triton_interpreter import DEVICE

import bitsandbytes.functional as bnb
import pytest
import torch
import torch.nn.functional as F
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from server.kernels.triton_linear import triton_linear_nf4, triton_rms_norm, triton_silu_mul

# The interpreter cuts bits off bfloat16.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2**-9, torch.bfloat16: 2**-6}
DTYPES = pytest.mark.parametrize("dtype", sorted(TOLERANCE, key=str), ids=str)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(DEVICE, dtype)


def check(got: torch.Tensor, want: torch.Tensor) -> None:
    """Within rounding to the result's type."""
    assert got.shape == want.shape
    error = (got.double() - want.double()).abs().max()
    assert error <= TOLERANCE[got.dtype] * want.abs().max()


@DTYPES
@pytest.mark.parametrize(
    ("num_rows", "gap", "has_bias"),
    [(1, 0, True), (16, 8, False), (17, 1, True), (70, 13, False), (256, 5, True)],
)
def test_linear_nf4(dtype: torch.dtype, num_rows: int, gap: int, has_bias: bool) -> None:
    """The product with the very numbers of bitsandbytes' dequantization."""
    weight = random(88, 192, seed=1, dtype=dtype)
    codes, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    # Rows that lie further apart than they are long; what is behind them is nobody's.
    x = torch.full((num_rows, 192 + gap), float("nan"), dtype=dtype, device=DEVICE)
    x[:, :192] = random(num_rows, 192, dtype=dtype)
    bias = random(88, seed=2, dtype=dtype) if has_bias else None
    x = x[:, :192]
    got = triton_linear_nf4(x, codes, state.absmax, state.code, bias, 88)
    dense = bnb.dequantize_4bit(codes, state).double()
    check(got, F.linear(x.double(), dense, None if bias is None else bias.double()))
    alone = triton_linear_nf4(x[:1], codes, state.absmax, state.code, bias, 88)
    check(alone, got[:1])


def test_no_rows() -> None:
    codes, state = bnb.quantize_4bit(random(8, 64), blocksize=64, quant_type="nf4")
    none = torch.empty(0, 64, device=DEVICE)
    assert triton_linear_nf4(none, codes, state.absmax, state.code, None, 8).shape == (0, 8)
    assert triton_rms_norm(none, torch.ones(64, device=DEVICE), 1e-5).shape == (0, 64)
    assert triton_silu_mul(none).shape == (0, 32)


@DTYPES
def test_rms_norm(dtype: torch.dtype) -> None:
    norm = LlamaRMSNorm(72, eps=1e-5)
    norm.weight.data = random(72, seed=3)
    x = random(3, 5, 72, dtype=dtype)
    want = norm.to(DEVICE, dtype)(x)
    check(triton_rms_norm(x, norm.weight.data, 1e-5), want)


@DTYPES
def test_silu_mul(dtype: torch.dtype) -> None:
    x = random(3, 2 * 1100, dtype=dtype)
    gate, up = x.chunk(2, dim=-1)
    check(triton_silu_mul(x), F.silu(gate) * up)
