"""Attention over the paged cache by FlashInfer (arXiv:2501.01005), where it is installed.

It reads the cache where it lies: `cache[:, :, 0]` and `cache[:, :, 1]` are keys and values in its
layout NHD, [pages, page_size, K, D], and it takes them with their strides. It wants to know all
pages of a step beforehand, in host memory; what it makes of them serves all layers that have the
same window, softcap and scaling.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# What FlashInfer's documentation recommends.
_WORKSPACE_BYTES = 128 << 20
# Query heads of one key-value head from which its tensor core kernels are the faster ones.
_MANY_HEADS = 4

_Kind = tuple[int | None, float | None, float]
"""Sliding window, softcap and scaling of a layer."""


@dataclass(frozen=True)
class PagePlan:
    """Which pages each query sees, as int32 in host memory: those of query i are `indices[indptr[i]
    : indptr[i + 1]]`, and the last of them holds `last_page_len[i]` positions, at least 1.

    `query_indptr`: query i is the rows from its i-th to its next number, which are the last ones of
    what it sees. None: each is one row.
    """

    indptr: torch.Tensor
    indices: torch.Tensor
    last_page_len: torch.Tensor
    query_indptr: torch.Tensor | None = None

    @property
    def num_rows(self) -> int:
        """Rows of all queries."""
        if self.query_indptr is None:
            return len(self.last_page_len)
        return int(self.query_indptr[-1])


def page_plan(
    seen: Sequence[tuple[int, Sequence[int]]], block_size: int, counts: Sequence[int] | None = None
) -> PagePlan:
    """The plan of queries that see the first `length` positions, at least 1, of `blocks` each.
    `counts` are their rows; None: one each."""
    lengths = np.array([length for length, _ in seen], dtype=np.int32)
    num_pages = -(-lengths // block_size)
    pages = [blocks[:count] for (_, blocks), count in zip(seen, num_pages, strict=True)]
    return PagePlan(
        _offsets(num_pages),
        torch.tensor([page for own in pages for page in own], dtype=torch.int32),
        torch.from_numpy(lengths - (num_pages - 1) * block_size),
        None if counts is None else _offsets(np.array(counts, dtype=np.int32)),
    )


def load_flashinfer(device: torch.device, dtype: torch.dtype) -> Any:
    """The library for `device` and `dtype`, or why it does not run there, as a str."""
    if device.type != "cuda":
        return f"not for {device.type}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"not for {str(dtype).removeprefix('torch.')}, only for float16 and bfloat16"
    try:
        return importlib.import_module("flashinfer")
    except ImportError as error:
        return f"cannot import {error.name or 'flashinfer'}; pip install flashinfer-python"


class FlashInfer:
    """The library on one device. One step at a time: the steps share its workspace."""

    def __init__(self, library: Any, device: torch.device) -> None:
        self._library = library
        self._device = device
        # To be zero before its first use.
        self._workspace = torch.zeros(_WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        self._wrappers: dict[tuple[bool, _Kind], Any] = {}

    def step(self, short: PagePlan | None, long: PagePlan | None) -> "FlashInferStep":
        """Attention of a step: first the rows of `short`, then those of `long`."""
        return FlashInferStep(self, short, long)

    def fixed(self, num_rows: int, num_blocks: int) -> "FixedStep":
        """Attention of steps of `num_rows` single rows that see up to `num_blocks` each, whose
        plans go to memory that stays."""
        return FixedStep(self, num_rows, num_blocks)

    def wrapper(self, is_decode: bool, kind: _Kind, many_heads: bool) -> Any:
        """The library's for one kind of layer, kept for the next step."""
        found = self._wrappers.get((is_decode, kind))
        if found is None:
            found = self._wrappers[is_decode, kind] = (
                self.decode_wrapper(many_heads)
                if is_decode
                else self._library.BatchPrefillWithPagedKVCacheWrapper(self._workspace, "NHD")
            )
        return found

    def decode_wrapper(self, many_heads: bool, **buffers: Any) -> Any:
        """A new one; `buffers` are those of a fixed step."""
        return self._library.BatchDecodeWithPagedKVCacheWrapper(
            self._workspace, "NHD", use_tensor_cores=many_heads, **buffers
        )


class FlashInferStep:
    """Attention of all layers of one step."""

    def __init__(self, owner: FlashInfer, short: PagePlan | None, long: PagePlan | None) -> None:
        self._owner = owner
        self._short, self._long = short, long
        self._planned: set[tuple[bool, _Kind]] = set()

    def attend(
        self,
        query: torch.Tensor,
        cache: torch.Tensor,
        scaling: float,
        sliding_window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """[T, H, D] for `query` of that shape over a layer's `cache` [blocks, block_size, 2, K, D],
        in which their keys and values are already."""
        kind = sliding_window, softcap, scaling
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        first = 0
        for plan in (self._short, self._long):
            if plan is not None:
                rows = slice(first, first + plan.num_rows)
                wrapper = self._wrapper(plan, kind, query, cache)
                wrapper.run(query[rows], (cache[:, :, 0], cache[:, :, 1]), out=out[rows])
                first = rows.stop
        return out

    def _wrapper(
        self, plan: PagePlan, kind: _Kind, query: torch.Tensor, cache: torch.Tensor
    ) -> Any:
        is_decode = plan.query_indptr is None
        many_heads = query.shape[1] >= _MANY_HEADS * cache.shape[3]
        wrapper = self._owner.wrapper(is_decode, kind, many_heads)
        if (is_decode, kind) not in self._planned:
            _plan(wrapper, plan, kind, query, cache)
            self._planned.add((is_decode, kind))
        return wrapper


class FixedStep:
    """Attention of all layers of steps that are replayed: `plan` before each of them, which for
    the layers that have run before leaves nothing for the step itself to do."""

    def __init__(self, owner: FlashInfer, num_rows: int, num_blocks: int) -> None:
        self._owner = owner
        self._sizes = num_rows + 1, num_rows * num_blocks, num_rows
        self._plan: PagePlan | None = None
        # By kind: the wrapper, and a query and a cache that tell the shapes.
        self._known: dict[_Kind, tuple[Any, torch.Tensor, torch.Tensor]] = {}

    def plan(self, plan: PagePlan) -> None:
        """Tells what the next steps see."""
        self._plan = plan
        for kind, (wrapper, query, cache) in self._known.items():
            _plan(wrapper, plan, kind, query, cache)

    def attend(
        self,
        query: torch.Tensor,
        cache: torch.Tensor,
        scaling: float,
        sliding_window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """As `FlashInferStep.attend`."""
        kind = sliding_window, softcap, scaling
        if kind not in self._known:
            assert self._plan is not None
            indptr, indices, last_page_len = (
                torch.zeros(size, dtype=torch.int32, device=query.device) for size in self._sizes
            )
            wrapper = self._owner.decode_wrapper(
                query.shape[1] >= _MANY_HEADS * cache.shape[3],
                use_cuda_graph=True,
                paged_kv_indptr_buffer=indptr,
                paged_kv_indices_buffer=indices,
                paged_kv_last_page_len_buffer=last_page_len,
            )
            self._known[kind] = wrapper, torch.empty_like(query[:0]), cache
            _plan(wrapper, self._plan, kind, query, cache)
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        self._known[kind][0].run(query, (cache[:, :, 0], cache[:, :, 1]), out=out)
        return out


def _plan(
    wrapper: Any, plan: PagePlan, kind: _Kind, query: torch.Tensor, cache: torch.Tensor
) -> None:
    sliding_window, softcap, scaling = kind
    _, block_size, _, num_kv_heads, dim = cache.shape
    pages = plan.indptr, plan.indices, plan.last_page_len
    more: dict[str, Any] = {}
    if plan.query_indptr is not None:
        pages = plan.query_indptr, *pages  # type: ignore[assignment]
        more["causal"] = True
    wrapper.plan(
        *pages,
        query.shape[1],
        num_kv_heads,
        dim,
        block_size,
        pos_encoding_mode="NONE",
        # It counts the positions before a row, we count the row too.
        window_left=-1 if sliding_window is None else sliding_window - 1,
        logits_soft_cap=softcap,
        q_data_type=query.dtype,
        kv_data_type=cache.dtype,
        sm_scale=scaling,
        **more,
    )


def _offsets(counts: np.ndarray[Any, np.dtype[np.int32]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([[0], counts.cumsum()]).astype(np.int32))
