"""Element types of Triton kernels."""

from typing import Any

import torch
import triton
import triton.language as tl

TYPES: dict[torch.dtype, Any] = {
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


def dot_type(kernel: object, dtype: torch.dtype) -> Any:
    """What the factors of `tl.dot` are converted to: their own type.

    Triton's interpreter multiplies the bits of bfloat16 as if they were integers, so there it is
    float32, which holds each product exactly.
    """
    interpreted = not isinstance(kernel, triton.JITFunction)
    return tl.float32 if interpreted and dtype == torch.bfloat16 else TYPES[dtype]
