"""The native CPU kernels (`native/*.c`), called on torch tensors.

They are compiled when the package is installed, if there is a C compiler, and run on CPUs with
AVX-512 and its BF16 instructions; the linear products need AMX too. Everywhere else the torch
forms run. Sums are float32, and a row's result depends on no other row of the batch.
"""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from server.kernels.changes import Affine
from server.kernels.groups import LoraGroup
from server.kernels.interface import Runs

MAX_PARTS = 4
PART_FIELDS = 5
AFFINE = 3 + PART_FIELDS * MAX_PARTS
"""Where the addresses of an `Affine` begin: input_scale, scale, shift."""
FIELDS = AFFINE + 3
"""Of one group in the table that `describe` makes: address of A, its rows, number of members; then
for each member its first column, columns, first row of A, rows, and the address of B; then those
from `AFFINE` on, which the native kernels do not read. 0 is nothing."""
_SUFFIX = {torch.bfloat16: "bf16", torch.float32: "f32"}
# More rows than this are cheaper as torch's product: it is bound by arithmetic, not by reading.
MAX_LINEAR_ROWS = 96

_POINTER, _INT, _SIZE, _FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "lora": (_POINTER, _SIZE, _POINTER, _SIZE, _SIZE, _POINTER, _SIZE, _POINTER, _SIZE, _INT),
    "cache_write": (_POINTER, _POINTER, _SIZE)
    + (_POINTER, _SIZE, _SIZE) * 2
    + (_SIZE, _SIZE),
    "attention": (_POINTER, _SIZE, _SIZE, _POINTER, _POINTER, _SIZE, _POINTER)
    + (_SIZE,) * 5
    + (_FLOAT, _SIZE, _FLOAT, _POINTER, _INT),
    "rms_norm": (_POINTER, _SIZE, _SIZE, _POINTER, _FLOAT, _POINTER),
    "silu_mul": (_POINTER, _SIZE, _SIZE, _POINTER, _INT),
}  # fmt: skip
_RUNS = (_POINTER, _SIZE, _POINTER, _SIZE)
_LINEAR = (
    *(_POINTER, _SIZE, _SIZE, _POINTER, _POINTER, _SIZE, _SIZE, _POINTER, _SIZE),
    *(*_RUNS, _INT),
)
_LINEAR_NF4 = (
    *(_POINTER, _SIZE, _SIZE, _POINTER, _POINTER, _POINTER, _POINTER),
    *(_SIZE, _SIZE, _POINTER, _SIZE),
    *(*_RUNS, _INT),
)


class Native:
    """The compiled library. Stateless; safe from any thread."""

    def __init__(self, path: Path) -> None:
        """Raises OSError if the library cannot be loaded."""
        self._library = ctypes.CDLL(str(path))
        self.level: int = self._library.understudy_level()
        """0: this CPU runs none of it; 1: all but the linear products; 2: all."""
        self._functions = {
            (name, dtype): self._function(f"{name}_{suffix}", signature)
            for name, signature in _SIGNATURES.items()
            for dtype, suffix in _SUFFIX.items()
        }
        self._linear = self._function("linear_bf16", _LINEAR)
        self._linear_nf4 = self._function("linear_nf4", _LINEAR_NF4)

    name = "native"
    fuses_affine = False
    sampler = None

    def runs(self, dtype: torch.dtype) -> bool:
        """Whether the kernels beside the linear products run for this element type here."""
        return self.level >= 1 and dtype in _SUFFIX

    def runs_linear(
        self, dtype: torch.dtype, out_features: int = 32, in_features: int = 64
    ) -> bool:
        """Whether the linear products run for such weights here."""
        fits = out_features % 32 == 0 and in_features % 64 == 0
        return self.level >= 2 and dtype == torch.bfloat16 and fits

    def takes(self, x: torch.Tensor) -> bool:
        """Whether they are the better choice for a product with `x` [..., in]."""
        few = x.numel() <= MAX_LINEAR_ROWS * x.shape[-1]
        return few and x.dtype == torch.bfloat16 and x.is_contiguous()

    def linear(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        lora: Runs = None,
    ) -> torch.Tensor:
        """`x` [T, in] times `weight` [out, in] transposed, plus `bias` [out] and the rows' own
        updates: [T, out]. All bfloat16; `weight` and `bias` contiguous."""
        out = x.new_empty(len(x), len(weight))
        _check(
            self._linear(
                x.data_ptr(), x.stride(0), len(x), weight.data_ptr(), _pointer(bias),
                x.shape[1], len(weight), out.data_ptr(), len(weight), *_runs(lora, x.dtype),
                torch.get_num_threads(),
            )
        )  # fmt: skip
        return out

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
        out = x.new_empty(len(x), out_features)
        _check(
            self._linear_nf4(
                x.data_ptr(), x.stride(0), len(x), codes.data_ptr(), scales.data_ptr(),
                code.data_ptr(), _pointer(bias), x.shape[1], out_features, out.data_ptr(),
                out_features, *_runs(lora, x.dtype), torch.get_num_threads(),
            )
        )  # fmt: skip
        return out

    def lora(self, rows: "LoraRows", group: int, x: torch.Tensor, out: torch.Tensor) -> None:
        """Adds the update of one group of linears to `out` [T, sum of out_features], in place."""
        _same_type(x.dtype, out.dtype)
        x = x if x.stride(-1) == 1 else x.contiguous()
        _check(
            self._functions["lora", x.dtype](
                x.data_ptr(), x.stride(0), out.data_ptr(), out.stride(0), x.shape[1],
                *_runs((rows, group), x.dtype), torch.get_num_threads(),
            )
        )  # fmt: skip

    def adapter_rows(
        self, bounds: list[int], updates: list[npt.NDArray[np.int64]], dtype: torch.dtype
    ) -> "LoraRows":
        """The runs of a step, as `lora_rows`."""
        return lora_rows(self, bounds, updates, dtype)

    def cache_write(
        self, cache: torch.Tensor, places: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> None:
        """Writes `key` and `value` [1, K, T, D] to `places` [T] of a layer's flattened cache."""
        _same_type(cache.dtype, key.dtype, value.dtype)
        self._functions["cache_write", key.dtype](
            cache.data_ptr(), places.data_ptr(), key.shape[2],
            key.data_ptr(), key.stride(1), key.stride(2),
            value.data_ptr(), value.stride(1), value.stride(2), key.shape[1], key.shape[3],
        )  # fmt: skip

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
        _same_type(query.dtype, cache.dtype, out.dtype)
        _, block_size, _, num_kv, dim = cache.shape
        _check(
            self._functions["attention", query.dtype](
                query.data_ptr(), query.stride(1), query.stride(2), cache.data_ptr(),
                tables.data_ptr(), tables.shape[1], lengths.data_ptr(), len(lengths),
                query.shape[1], num_kv, dim, block_size, scaling, sliding_window or 0,
                softcap or 0.0, out.data_ptr(), torch.get_num_threads(),
            )
        )  # fmt: skip

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        """Root mean square normalisation (arXiv:1910.07467) of `x` [..., n], contiguous."""
        _same_type(x.dtype, weight.dtype)
        out = torch.empty_like(x)
        size = x.shape[-1]
        self._functions["rms_norm", x.dtype](
            x.data_ptr(), x.numel() // size, size, weight.data_ptr(), epsilon, out.data_ptr()
        )
        return out

    def silu_mul(self, x: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up of `x` [..., 2 n], contiguous, which holds gate and up side by side."""
        size = x.shape[-1] // 2
        out = x.new_empty(*x.shape[:-1], size)
        self._functions["silu_mul", x.dtype](
            x.data_ptr(), out.numel() // size, size, out.data_ptr(), torch.get_num_threads()
        )
        return out

    def _function(self, name: str, signature: tuple[Any, ...]) -> Any:
        function = getattr(self._library, f"understudy_{name}")
        function.argtypes = signature
        return function


@dataclass(frozen=True)
class LoraRows:
    """Runs of rows, each with one adapter: run i is the rows `bounds[i]` .. `bounds[i + 1]` and
    has `updates[i]`, as made by `describe`. The adapters must outlive it."""

    native: Native
    bounds: npt.NDArray[np.int64]
    updates: npt.NDArray[np.int64]
    addresses: tuple[int, int]
    """Of `bounds` and `updates`."""
    dtype: torch.dtype
    """Of the adapters, and so of the rows."""

    def scale_input(self, group: int, x: torch.Tensor) -> torch.Tensor:
        """`x` itself."""
        return x

    def add(self, group: int, x: torch.Tensor, out: torch.Tensor) -> None:
        """Adds the updates of one group of linears to `out`, in place."""
        self.native.lora(self, group, x, out)


def lora_rows(
    native: Native, bounds: list[int], updates: list[npt.NDArray[np.int64]], dtype: torch.dtype
) -> LoraRows:
    """The runs of a step; `bounds` has one more entry than `updates`, whose tensors are `dtype`."""
    stacked = np.stack(updates)
    places = np.array(bounds, dtype=np.int64)
    return LoraRows(native, places, stacked, (places.ctypes.data, stacked.ctypes.data), dtype)


def _runs(lora: Runs, dtype: torch.dtype) -> tuple[int | None, int, int | None, int]:
    if lora is None:
        return None, 0, None, 0
    rows, group = lora
    assert isinstance(rows, LoraRows)
    _same_type(dtype, rows.dtype)
    bounds, updates = rows.addresses
    count, num_groups, _ = rows.updates.shape
    return bounds, count, updates + group * FIELDS * 8, num_groups * FIELDS


def describe(
    groups: Mapping[int, LoraGroup],
    num_groups: int,
    affine: Mapping[int, Affine] | None = None,
) -> npt.NDArray[np.int64]:
    """One adapter's updates [num_groups, fields], for `Kernels.adapter_rows`. A group has at most 4
    members. `affine` is for kernels that fuse it."""
    updates = np.zeros((num_groups, FIELDS), dtype=np.int64)
    for index, group in groups.items():
        assert len(group.parts) <= MAX_PARTS
        fields = [group.a.data_ptr(), len(group.a), len(group.parts)]
        for columns, ranks, b in group.parts:
            assert b.is_contiguous()
            fields += [columns.start, columns.stop - columns.start, ranks.start, b.shape[0]]
            fields.append(b.data_ptr())
        assert group.a.is_contiguous()
        updates[index, : len(fields)] = fields
    for index, own in (affine or {}).items():
        for place, factor in enumerate((own.input_scale, own.scale, own.shift)):
            if factor is not None:
                assert factor.is_contiguous()
                updates[index, AFFINE + place] = factor.data_ptr()
    return updates


@cache
def load_native() -> Native | None:
    """The library, or None where it was not compiled or this CPU runs none of it."""
    # In Python's order: another Python's library may be of another version of these sources.
    for suffix in EXTENSION_SUFFIXES:
        try:
            native = Native(Path(__file__).with_name(f"_native{suffix}"))
        except (OSError, AttributeError):
            continue
        if native.level:
            return native
    return None


def _pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _same_type(*types: torch.dtype) -> None:
    """Raises TypeError if they differ: the kernels see addresses only."""
    if len(set(types)) > 1:
        raise TypeError(f"a native kernel takes one type, not {', '.join(map(str, types))}")


def _check(status: int) -> None:
    if status:
        raise MemoryError("a kernel found no memory")
