"""Holds the dequantized weights of a 4-bit base in memory while it trains.

bitsandbytes dequantizes at every product, forward and backward. Holding the result costs memory,
saves that time, and on CPU changes no bit; on CUDA its fused kernel for small batches rounds
otherwise. The plain form is the same model without `hold`.
"""

from collections.abc import Callable, Iterator
from typing import cast

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit, Params4bit
from torch import Tensor, nn
from torch.nn import functional

# Beyond this, memory is what the 4-bit base was chosen for.
MAX_AUTOMATIC_BYTES = 1 << 30


def num_held_bytes(outline: nn.Module, dtype: torch.dtype) -> int:
    """Bytes that `hold` would take, at most, for a model of this outline."""
    weights = (m.weight.numel() for m in outline.modules() if isinstance(m, nn.Linear))
    return sum(weights) * dtype.itemsize


def hold(model: nn.Module, held: dict[int, Tensor]) -> None:
    """Makes every Linear4bit of `model` multiply with a dequantized copy of its weight.

    The copies are put into `held`, by the address of the weight, and taken from there, so models
    that share weights share them too. The modules, their quantized weights and everything saved
    stay as they are. Weights must not have been repacked (see
    `trainer.model.keep_weights_as_loaded`).
    """
    for module in _linears(model):
        address = module.weight.data_ptr()
        if address not in held:
            state = cast(Params4bit, module.weight).quant_state
            held[address] = dequantize_4bit(module.weight.data, state).to(module.compute_dtype)
        weight = held[address]
        # On the instance, so that the class, PEFT's type checks and state_dict see no difference.
        module.__dict__["forward"] = _product(weight, module.bias)


def release(model: nn.Module) -> None:
    """Undoes `hold`; the copies go with whoever has `held`."""
    for module in _linears(model):
        module.__dict__.pop("forward", None)


def _linears(model: nn.Module) -> Iterator[Linear4bit]:
    return (module for module in model.modules() if isinstance(module, Linear4bit))


def _product(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        cast_bias = None if bias is None else bias.to(weight.dtype)
        return functional.linear(x.to(weight.dtype), weight, cast_bias).to(x.dtype)

    return forward
