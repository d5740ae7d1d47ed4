"""The kernels that Triton compiles, as one `Kernels`."""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from server.kernels.interface import AdapterRows, Runs
from server.kernels.triton_attention import triton_attention, triton_cache_write
from server.kernels.triton_linear import triton_linear_nf4, triton_rms_norm, triton_silu_mul
from server.kernels.triton_lora import TILE_ROWS, triton_rows, triton_slot_rows
from server.kernels.triton_sampler import triton_draw
from server.kernels.triton_types import TYPES

# Beyond so many rows a product is bound by arithmetic: dequantizing first costs little then.
_MAX_NF4_ROWS = 256


class TritonKernels:
    """On a CUDA device, or anywhere by the interpreter. Stateless; safe from any thread."""

    name = "triton"
    tile_rows = TILE_ROWS
    fuses_affine = True
    sampler = staticmethod(triton_draw)

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def runs_linear(
        self, dtype: torch.dtype, out_features: int = 32, in_features: int = 64
    ) -> bool:
        """Whether the linear products run for such weights."""
        return dtype in TYPES and in_features % 64 == 0

    def takes(self, x: torch.Tensor) -> bool:
        """Whether they are the better choice for a product with `x` [..., in]."""
        few = x.numel() <= _MAX_NF4_ROWS * x.shape[-1]
        return few and x.dtype in TYPES and x.is_contiguous()

    def linear(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, lora: Runs = None
    ) -> torch.Tensor:
        """`x` [T, in] times `weight` [out, in] transposed, plus `bias` [out] and the rows' own
        updates: [T, out]. The product is the library's."""
        return _updated(x, F.linear(x, weight, bias), lora)

    def linear_nf4(
        self,
        x: torch.Tensor,
        codes: torch.Tensor,
        scales: torch.Tensor,
        code: torch.Tensor,
        bias: torch.Tensor | None,
        out_features: int,
        lora: Runs = None,
    ) -> torch.Tensor:
        """As `linear` for NF4: `codes` two to a byte, `scales` one per 64 weights (float32), and
        `code`, the 16 values."""
        return _updated(x, triton_linear_nf4(x, codes, scales, code, bias, out_features), lora)

    def adapter_rows(
        self, bounds: list[int], updates: list[npt.NDArray[np.int64]], dtype: torch.dtype
    ) -> AdapterRows:
        """The runs of a step: run i is the rows `bounds[i]` .. `bounds[i + 1]` and has
        `updates[i]`, made by `describe` from tensors of `dtype`."""
        return triton_rows(bounds, updates, dtype, self._device)

    def slot_rows(
        self,
        table: torch.Tensor,
        max_ranks: npt.NDArray[np.int64],
        dtype: torch.dtype,
        tiles: torch.Tensor,
    ) -> AdapterRows:
        """The runs that `tiles` [n, 3] tell whenever it is used: row of `table` [slots, groups,
        fields] (`describe`), first row and number of rows, 0 for none. Tensors are of `dtype`.

        `max_ranks` [groups] are the most rows of A that any adapter has; groups without any are
        left alone, and no input is scaled."""
        return triton_slot_rows(table, max_ranks, dtype, tiles)

    def cache_write(
        self, cache: torch.Tensor, places: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> None:
        """Writes `key` and `value` [1, K, T, D] to `places` [T] of a layer's flattened cache."""
        triton_cache_write(cache, places, key, value)

    def attention(
        self,
        query: torch.Tensor,
        cache: torch.Tensor,
        tables: torch.Tensor,
        lengths: torch.Tensor,
        out: torch.Tensor,
        scaling: float,
        sliding_window: int | None,
        softcap: float | None,
    ) -> None:
        """Attends with the first `len(lengths)` rows of `query` [1, H, T, D], each a query on its
        own that sees the first `lengths[i]` positions of `tables[i]`, into `out` [T, H, D]."""
        triton_attention(query, cache, tables, lengths, out, scaling, sliding_window, softcap)

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """Root mean square normalisation (arXiv:1910.07467) of `x` [..., n], contiguous."""
        return triton_rms_norm(x, weight, epsilon)

    def silu_mul(self, x: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up of `x` [..., 2 n], contiguous, which holds gate and up side by side."""
        return triton_silu_mul(x)


def _updated(x: torch.Tensor, out: torch.Tensor, lora: Runs) -> torch.Tensor:
    if lora is not None:
        rows, group = lora
        rows.add(group, x, out)
    return out
