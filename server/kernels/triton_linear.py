"""Products with NF4 weights, and the small operations between products, in Triton.

NF4 (QLoRA, arXiv:2305.14314, section 3): two codes to a byte, the first in its upper half, one
float32 scale for every 64 weights of a row. Codes become numbers in registers on the way into the
product. Even and odd columns are multiplied apart, so that they need not be interleaved.
"""

import torch
import triton
import triton.language as tl

from server.kernels.triton_types import TYPES, dot_type

_BLOCK = 64
_COLUMNS = 32
_MAX_ROWS = 64


def triton_linear_nf4(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    code: torch.Tensor,
    bias: torch.Tensor | None,
    out_features: int,
) -> torch.Tensor:
    """`x` [T, in] times the weight [out, in] transposed, plus `bias` [out]: [T, out], of x's type.

    `codes` holds out * in / 2 bytes, `scales` out * in / 64 float32, `code` the 16 values. `in` is
    a multiple of 64. Sums are float32.
    """
    num_rows, num_inner = x.shape
    out = torch.empty(num_rows, out_features, dtype=x.dtype, device=x.device)
    if not num_rows:
        return out
    rows = min(_MAX_ROWS, max(16, triton.next_power_of_2(num_rows)))
    _linear_nf4[triton.cdiv(out_features, _COLUMNS), triton.cdiv(num_rows, rows)](
        x, x.stride(0), codes, scales, code, code if bias is None else bias, out, out.stride(0),
        num_rows, num_inner, out_features,
        TYPE=TYPES[x.dtype], DOT=dot_type(_linear_nf4, x.dtype), HAS_BIAS=bias is not None,
        ROWS=rows, COLUMNS=_COLUMNS, BLOCK=_BLOCK,
    )  # fmt: skip
    return out


def triton_rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Root mean square normalisation (arXiv:1910.07467) of `x` [..., n], contiguous."""
    out, size = torch.empty_like(x), x.shape[-1]
    if x.numel():
        _rms_norm[(x.numel() // size,)](
            x, weight, out, epsilon, TYPE=TYPES[x.dtype], NUM=size,
            SIZE=triton.next_power_of_2(size),
        )  # fmt: skip
    return out


def triton_silu_mul(x: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up of `x` [..., 2 n], contiguous, which holds gate and up side by side."""
    size = x.shape[-1] // 2
    out = x.new_empty(*x.shape[:-1], size)
    if out.numel():
        _silu_mul[out.numel() // size, triton.cdiv(size, 1024)](
            x, out, TYPE=TYPES[x.dtype], NUM=size, SIZE=1024
        )
    return out


@triton.jit(do_not_specialize=["num_rows"])
def _linear_nf4(
    x, x_stride, codes, scales, code, bias, out, out_stride, num_rows, num_inner, num_columns,
    TYPE: tl.constexpr, DOT: tl.constexpr, HAS_BIAS: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    pair = tl.arange(0, BLOCK // 2)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for begin in range(0, num_inner, BLOCK):
        place = column[None, :] * num_inner + begin
        packed = tl.load(codes + place // 2 + pair[:, None], (column < num_columns)[None, :], 0)
        scale = tl.load(scales + place // BLOCK, (column < num_columns)[None, :], 0.0)
        source = x + row[:, None] * x_stride + begin + 2 * pair[None, :]
        known = (row < num_rows)[:, None]
        # As bitsandbytes: the scaled value is rounded to the type of the product.
        even = (tl.load(code + (packed >> 4)).to(tl.float32) * scale).to(TYPE)
        odd = (tl.load(code + (packed & 15)).to(tl.float32) * scale).to(TYPE)
        left = tl.load(source, known, 0.0)
        total = tl.dot(left.to(DOT), even.to(DOT), total, input_precision="ieee")
        left = tl.load(source + 1, known, 0.0)
        total = tl.dot(left.to(DOT), odd.to(DOT), total, input_precision="ieee")
    if HAS_BIAS:
        total += tl.load(bias + column, column < num_columns, 0.0).to(tl.float32)[None, :]
    known = (row < num_rows)[:, None] & (column < num_columns)[None, :]
    tl.store(out + row[:, None] * out_stride + column[None, :], total.to(TYPE), known)


@triton.jit
def _rms_norm(
    x, weight, out, epsilon, TYPE: tl.constexpr, NUM: tl.constexpr, SIZE: tl.constexpr
):  # fmt: skip
    start = tl.program_id(0).to(tl.int64) * NUM
    column = tl.arange(0, SIZE)
    row = tl.load(x + start + column, column < NUM, 0.0).to(tl.float32)
    normal = row * tl.rsqrt(tl.sum(row * row, 0) / NUM + epsilon)
    # As transformers: rounded before it is scaled.
    scaled = normal.to(TYPE).to(tl.float32) * tl.load(weight + column, column < NUM, 0.0)
    tl.store(out + start + column, scaled.to(TYPE), column < NUM)


@triton.jit
def _silu_mul(x, out, TYPE: tl.constexpr, NUM: tl.constexpr, SIZE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    source = x + row * (2 * NUM) + column
    gate = tl.load(source, column < NUM, 0.0).to(tl.float32)
    up = tl.load(source + NUM, column < NUM, 0.0).to(tl.float32)
    active = (gate / (1 + tl.exp(-gate))).to(TYPE).to(tl.float32)
    tl.store(out + row * NUM + column, (active * up).to(TYPE), column < NUM)
