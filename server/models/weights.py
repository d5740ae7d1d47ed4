"""The base product of a linear, or of several that read the same input, in each weight form."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from bitsandbytes.autograd._functions import matmul_4bit
from bitsandbytes.functional import (
    QuantState,
    dequantize_4bit,
    dequantize_blockwise,
    int8_vectorwise_dequant,
    int8_vectorwise_quant,
)
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from torch import nn
from transformers.pytorch_utils import Conv1D

from server.kernels import Kernels, Runs

# What the native product reads, and what the base is quantized with.
NF4_BLOCK = 64


class BaseWeight(Protocol):
    """A frozen linear map with its bias."""

    @property
    def bias(self) -> torch.Tensor | None:
        """[sum of out_features]."""

    @property
    def out_features(self) -> tuple[int, ...]:
        """Of each linear, in order: the output holds them side by side."""

    @property
    def resident_bytes(self) -> int:
        """Memory it holds."""

    def __call__(self, x: torch.Tensor, lora: Runs = None) -> torch.Tensor:
        """[..., in] to [..., sum of out_features].

        Takes the rows' LoRA updates along, if given: ask `takes_lora` first.
        """

    def takes_lora(self, x: torch.Tensor) -> bool:
        """Whether a product with `x` takes LoRA updates along."""

    def dequantized(self) -> torch.Tensor:
        """The dense weight [sum of out_features, in], a copy if it is quantized."""


@dataclass(frozen=True)
class DenseWeight:
    """An unquantized weight [out, in]."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    out_features: tuple[int, ...]
    kernels: Kernels | None = None
    """Runs products of few rows, if given."""

    @property
    def resident_bytes(self) -> int:
        """Memory it holds."""
        return self.weight.nbytes + _nbytes(self.bias)

    def __call__(self, x: torch.Tensor, lora: Runs = None) -> torch.Tensor:
        """[..., in] to [..., sum of out_features]."""
        return dense_product(self.kernels, x, self.weight, self.bias, lora)

    def takes_lora(self, x: torch.Tensor) -> bool:
        """Whether a product with `x` takes LoRA updates along."""
        return self.kernels is not None and self.kernels.takes(x)

    def dequantized(self) -> torch.Tensor:
        """The weight itself."""
        return self.weight


@dataclass(frozen=True)
class Nf4Weight:
    """NF4 codes (QLoRA, arXiv:2305.14314, section 3), two to a byte, with one fp32 scale per
    block; the product dequantizes. `state.nested` is False: the second quantization of the scales
    is undone at load, which changes no number."""

    codes: torch.Tensor
    state: QuantState
    bias: torch.Tensor | None
    out_features: tuple[int, ...]
    kernels: Kernels | None = None
    """Runs products of few rows, if given."""
    is_own: Callable[[int], bool] | None = None
    """Whether `kernels` are the faster ones with so many rows, where that was measured."""

    @property
    def resident_bytes(self) -> int:
        """Memory it holds."""
        return int(self.codes.nbytes + self.state.absmax.nbytes) + _nbytes(self.bias)

    def __call__(self, x: torch.Tensor, lora: Runs = None) -> torch.Tensor:
        """[..., in] to [..., sum of out_features]."""
        if self.kernels is not None and self.takes_lora(x):
            rows, state = x.view(-1, x.shape[-1]), self.state
            num_out = state.shape[0]
            out = self.kernels.linear_nf4(
                rows, self.codes, state.absmax, state.code, self.bias, num_out, lora
            )
            return out.view(*x.shape[:-1], num_out)
        assert lora is None
        product: torch.Tensor = matmul_4bit(x, self.codes, self.state, bias=self.bias)
        return product

    def takes_lora(self, x: torch.Tensor) -> bool:
        """Whether a product with `x` takes LoRA updates along."""
        if self.kernels is None or not self.kernels.takes(x):
            return False
        return self.is_own is None or self.is_own(x.numel() // x.shape[-1])

    def dequantized(self) -> torch.Tensor:
        """The dense weight [out, in]."""
        dense: torch.Tensor = dequantize_4bit(self.codes, self.state)
        return dense


class HeldNf4Weight:
    """NF4 codes with their dequantized weight beside them: the numbers of `Nf4Weight` without
    dequantizing at each product."""

    def __init__(self, packed: Nf4Weight) -> None:
        self._packed = packed
        self._dense = packed.dequantized()
        self.out_features = packed.out_features
        self.bias = packed.bias

    @property
    def resident_bytes(self) -> int:
        """Memory it holds."""
        return self._packed.resident_bytes + self._dense.nbytes

    def __call__(self, x: torch.Tensor, lora: Runs = None) -> torch.Tensor:
        """[..., in] to [..., sum of out_features]."""
        return dense_product(self._packed.kernels, x, self._dense, self._packed.bias, lora)

    def takes_lora(self, x: torch.Tensor) -> bool:
        """Whether a product with `x` takes LoRA updates along."""
        return self._packed.takes_lora(x)

    def dequantized(self) -> torch.Tensor:
        """The dense weight [out, in], not a copy."""
        return self._dense


@dataclass(frozen=True)
class Int8Weight:
    """LLM.int8 (arXiv:2208.07339): int8 codes [out, in] with one scale per output. Inputs pass
    through fp16; columns with a magnitude of at least `threshold` anywhere in the batch are
    multiplied unquantized. With threshold 0 no row depends on its neighbours."""

    codes: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None
    threshold: float
    out_features: tuple[int, ...]

    @property
    def resident_bytes(self) -> int:
        """Memory it holds."""
        return self.codes.nbytes + self.scales.nbytes + _nbytes(self.bias)

    def takes_lora(self, x: torch.Tensor) -> bool:
        """Never."""
        return False

    def dequantized(self) -> torch.Tensor:
        """The dense weight [out, in] in float32."""
        dense: torch.Tensor = int8_vectorwise_dequant(self.codes, self.scales)
        return dense

    def __call__(self, x: torch.Tensor, lora: Runs = None) -> torch.Tensor:
        """[..., in] to [..., sum of out_features]."""
        assert lora is None
        rows = x.reshape(-1, x.shape[-1])
        quantized, row_scales, outliers = int8_vectorwise_quant(
            rows.to(torch.float16), threshold=self.threshold
        )
        ops = torch.ops.bitsandbytes
        if self.threshold > 0.0:
            out, _ = ops.int8_mixed_scaled_mm(
                rows, quantized, self.codes, row_scales, self.scales, outliers, self.bias
            )
        else:
            out = ops.int8_scaled_mm(
                quantized, self.codes, row_scales, self.scales, bias=self.bias, dtype=x.dtype
            )
        product: torch.Tensor = out.reshape(*x.shape[:-1], -1)
        return product


def dense_product(
    kernels: Kernels | None,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    lora: Runs = None,
) -> torch.Tensor:
    """[..., in] to [..., out] by `weight` [out, in]: by `kernels`, if given, where rows are few."""
    if kernels is not None and kernels.takes(x):
        rows = x.view(-1, x.shape[-1])
        return kernels.linear(rows, weight, bias, lora).view(*x.shape[:-1], len(weight))
    assert lora is None
    return F.linear(x, weight, bias)


def is_linear(module: Any) -> bool:
    """Whether `take_weight` reads this module."""
    return isinstance(module, nn.Linear | Conv1D)


def shape_of(module: Any) -> tuple[int, int]:
    """(out_features, in_features)."""
    if isinstance(module, Conv1D):
        return module.weight.shape[1], module.weight.shape[0]
    return module.out_features, module.in_features


def can_fuse(modules: Sequence[Any]) -> bool:
    """Whether linears that read the same input may share one product without changing a code."""
    first = modules[0]
    same = all(type(m) is type(first) and shape_of(m)[1] == shape_of(first)[1] for m in modules)
    if not same or not isinstance(first, Linear4bit):
        return same
    # A quantization block must not span two rows, else a block would hold two linears' weights.
    return all(shape_of(m)[1] % m.weight.quant_state.blocksize == 0 for m in modules)


def take_weight(
    modules: Sequence[Any], *, hold: bool, int8_threshold: float, kernels: Kernels | None
) -> BaseWeight:
    """The fused weight of linears as transformers loaded them: `nn.Linear`, `Conv1D`, or
    bitsandbytes' `Linear4bit` and `Linear8bitLt`. With `hold`, NF4 is also kept dequantized;
    `kernels` runs products of few rows where it can."""
    out_features = tuple(shape_of(m)[0] for m in modules)
    bias = _join_biases(modules)
    first = modules[0]
    if isinstance(first, Linear4bit):
        packed = _take_nf4(modules, bias, out_features, kernels)
        return HeldNf4Weight(packed) if hold else packed
    if isinstance(first, Linear8bitLt):
        # The first forward pass moves codes and scales from the parameter to the state.
        holders = [m.weight if m.state.CB is None else m.state for m in modules]
        return Int8Weight(
            torch.cat([holder.CB for holder in holders]),
            torch.cat([holder.SCB for holder in holders]),
            bias,
            int8_threshold,
            out_features,
        )
    dense = [m.weight.data.t() if isinstance(m, Conv1D) else m.weight.data for m in modules]
    weight = torch.cat(dense) if len(dense) > 1 else dense[0].contiguous()
    return DenseWeight(weight, bias, out_features, kernels_for(kernels, weight, bias))


def kernels_for(
    kernels: Kernels | None, weight: torch.Tensor, bias: torch.Tensor | None
) -> Kernels | None:
    """`kernels` if it runs the product with a dense `weight` [out, in]."""
    if kernels is None or not kernels.runs_linear(weight.dtype, *weight.shape):
        return None
    return kernels if weight.is_contiguous() and _fits(bias, weight.dtype) else None


def _fits(bias: torch.Tensor | None, dtype: torch.dtype) -> bool:
    return bias is None or (bias.dtype == dtype and bias.is_contiguous())


def _take_nf4(
    modules: Sequence[Any],
    bias: torch.Tensor | None,
    out_features: tuple[int, ...],
    kernels: Kernels | None,
) -> Nf4Weight:
    states = [m.weight.quant_state for m in modules]
    first = states[0]
    absmax = torch.cat([_scales(state) for state in states])
    codes = torch.cat([m.weight.data.reshape(-1) for m in modules]).unsqueeze(1)
    state = QuantState(
        absmax=absmax,
        shape=torch.Size((sum(out_features), first.shape[1])),
        code=first.code,
        blocksize=first.blocksize,
        quant_type=first.quant_type,
        dtype=first.dtype,
    )
    runs = (
        kernels is not None
        and state.blocksize == NF4_BLOCK
        and kernels.runs_linear(state.dtype, *state.shape)
        and _fits(bias, state.dtype)
    )
    return Nf4Weight(codes, state, bias, out_features, kernels if runs else None)


def _scales(state: QuantState) -> torch.Tensor:
    scales: torch.Tensor = state.absmax
    if state.nested:
        scales = dequantize_blockwise(state.absmax, state.state2) + state.offset
    return scales.float()


def _join_biases(modules: Sequence[Any]) -> torch.Tensor | None:
    biases = [m.bias for m in modules]
    if all(bias is None for bias in biases):
        return None
    like = next(bias for bias in biases if bias is not None)
    return torch.cat(
        [
            like.new_zeros(shape_of(module)[0]) if bias is None else bias.data
            for module, bias in zip(modules, biases, strict=True)
        ]
    )


def _nbytes(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.nbytes
