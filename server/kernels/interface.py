"""What the engine asks of kernels that take over from torch: native on a CPU, Triton's on CUDA."""

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from server.kernels.sampling import Sampler


class AdapterRows(Protocol):
    """Runs of rows, each with one adapter or none, of one step. The adapters must outlive it."""

    def scale_input(self, group: int, x: torch.Tensor) -> torch.Tensor:
        """What the group's product, and `add`, take in place of `x` [..., in]: each row times its
        adapter's input scale, where one was described. `x` itself if there is none."""

    def add(self, group: int, x: torch.Tensor, out: torch.Tensor) -> None:
        """Adds the updates of one group of linears to `out` [T, sum of out_features], in place,
        then applies each row's scale and shift, where they were described. `x` is [T, in]."""


Runs = tuple[AdapterRows, int] | None
"""The runs of a step and the group of linears they are wanted for."""


class Kernels(Protocol):
    """Batched operations on tensors of one device. Sums are float32."""

    @property
    def name(self) -> str:
        """As the configuration and the log call them."""

    @property
    def fuses_affine(self) -> bool:
        """Whether `AdapterRows` read the `Affine` that `describe` was given."""

    @property
    def sampler(self) -> Sampler | None:
        """Draws tokens where the logits are, or None where torch does it."""

    def runs_linear(
        self, dtype: torch.dtype, out_features: int = 32, in_features: int = 64
    ) -> bool:
        """Whether the linear products run for such weights here."""

    def takes(self, x: torch.Tensor) -> bool:
        """Whether they are the better choice for a product with `x` [..., in]."""

    def linear(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, lora: Runs = None
    ) -> torch.Tensor:
        """`x` [T, in] times `weight` [out, in] transposed, plus `bias` [out] and the rows' own
        updates: [T, out]."""

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

    def adapter_rows(
        self, bounds: list[int], updates: list[npt.NDArray[np.int64]], dtype: torch.dtype
    ) -> AdapterRows:
        """The runs of a step: run i is the rows `bounds[i]` .. `bounds[i + 1]` and has
        `updates[i]`, made by `describe` from tensors of `dtype`."""

    def cache_write(
        self, cache: torch.Tensor, places: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> None:
        """Writes `key` and `value` [1, K, T, D] to `places` [T] of a layer's flattened cache."""

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

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """Root mean square normalisation (arXiv:1910.07467) of `x` [..., n], contiguous."""

    def silu_mul(self, x: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up of `x` [..., 2 n], contiguous, which holds gate and up side by side."""


class PlannedAttention(Protocol):
    """Attention of all layers of a step whose pages were told beforehand."""

    def attend(
        self,
        query: torch.Tensor,
        cache: torch.Tensor,
        scaling: float,
        sliding_window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """[T, H, D] for `query` of that shape over a layer's `cache`, in which their keys and
        values are already."""


@runtime_checkable
class SlotKernels(Kernels, Protocol):
    """Kernels that find a step's adapters by numbers in memory of the device, so that a step with
    other adapters is the same launches."""

    @property
    def tile_rows(self) -> int:
        """Most rows of one tile."""

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
