"""What FlashInfer's documentation says its wrappers do, in torch: the library itself runs on CUDA
only, and no test has called it."""

from collections.abc import Callable
from typing import Any

import torch

from server.kernels.reference import attention_reference

Launch = Callable[[Callable[[], Any], object], Any]


def library(launch: Launch = lambda work, _: work()) -> Any:
    """A module's stand-in; `launch` does a wrapper's work on the tensors that it is given."""

    class Decode(_Decode):
        _launch = staticmethod(launch)

    class Prefill(_Prefill):
        _launch = staticmethod(launch)

    class Module:
        BatchDecodeWithPagedKVCacheWrapper = Decode
        BatchPrefillWithPagedKVCacheWrapper = Prefill

    return Module


class _Wrapper:
    _launch: Launch

    def __init__(self, workspace: torch.Tensor, kv_layout: str) -> None:
        assert workspace.dtype == torch.uint8
        assert kv_layout == "NHD"
        self._settings: dict[str, Any] = {}
        self._pages: tuple[torch.Tensor, ...] = ()

    def _keep(self, pages: tuple[torch.Tensor, ...]) -> None:
        self._pages = pages

    def _plan(
        self,
        qo_indptr: torch.Tensor,
        indptr: torch.Tensor,
        indices: torch.Tensor,
        last_page_len: torch.Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        **settings: Any,
    ) -> None:
        for tensor in (qo_indptr, indptr, indices, last_page_len):
            assert tensor.dtype == torch.int32
            assert tensor.device.type == "cpu", "a plan on the device would be copied back"
        count = len(last_page_len)
        assert len(indptr) == len(qo_indptr) == count + 1
        assert indptr[0] == 0
        assert indptr[-1] == len(indices)
        assert bool((indptr.diff() >= 1).all())
        assert bool(((last_page_len >= 1) & (last_page_len <= page_size)).all())
        assert settings.pop("pos_encoding_mode") == "NONE"
        assert num_qo_heads % num_kv_heads == 0
        self._keep((qo_indptr, indptr, indices, last_page_len))
        self._settings = settings | {"heads": num_qo_heads, "kv": num_kv_heads, "dim": head_dim}
        self._page_size = page_size

    def run(
        self, q: torch.Tensor, paged_kv_cache: tuple[torch.Tensor, torch.Tensor], *, out: Any
    ) -> torch.Tensor:
        keys, values = paged_kv_cache
        assert keys.shape == values.shape
        assert keys.stride() == values.stride()
        assert keys.stride(-1) == q.stride(-1) == 1
        found = self._settings
        assert q.shape[1:] == (found["heads"], found["dim"])
        assert keys.shape[1:] == (self._page_size, found["kv"], found["dim"])
        assert (q.dtype, keys.dtype) == (found["q_data_type"], found["kv_data_type"])
        return self._launch(lambda: self._run(q, keys, values, out), (q, keys, values, out))  # type: ignore[no-any-return]

    def _run(
        self, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, out: torch.Tensor
    ) -> torch.Tensor:
        rows, indptr, indices, last = (tensor.tolist() for tensor in self._pages)
        assert rows[-1] == len(q) == len(out)
        window = self._settings["window_left"]
        for i, length in enumerate(last):
            pages = indices[indptr[i] : indptr[i + 1]]
            size = (len(pages) - 1) * self._page_size + length
            own = slice(rows[i], rows[i + 1])
            # Without causal, every row would see all positions: the same for single rows.
            assert self._settings.get("causal", own.stop - own.start == 1)
            out[own] = attention_reference(
                q[own].transpose(0, 1),
                keys[pages].flatten(0, 1)[:size].transpose(0, 1),
                values[pages].flatten(0, 1)[:size].transpose(0, 1),
                self._settings["sm_scale"],
                None if window == -1 else window + 1,
                self._settings["logits_soft_cap"],
            )
        return out


class _Decode(_Wrapper):
    def __init__(
        self,
        workspace: torch.Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        use_tensor_cores: bool = False,
        paged_kv_indptr_buffer: torch.Tensor | None = None,
        paged_kv_indices_buffer: torch.Tensor | None = None,
        paged_kv_last_page_len_buffer: torch.Tensor | None = None,
    ) -> None:
        super().__init__(workspace, kv_layout)
        buffers = paged_kv_indptr_buffer, paged_kv_indices_buffer, paged_kv_last_page_len_buffer
        assert all((buffer is not None) == use_cuda_graph for buffer in buffers)
        self._buffers = buffers if use_cuda_graph else None

    def plan(
        self, indptr: torch.Tensor, indices: torch.Tensor, last_page_len: torch.Tensor, *sizes: int,
        **settings: Any,
    ) -> None:  # fmt: skip
        qo_indptr = torch.arange(len(last_page_len) + 1, dtype=torch.int32)
        self._plan(qo_indptr, indptr, indices, last_page_len, *sizes, **settings)

    def _keep(self, pages: tuple[torch.Tensor, ...]) -> None:
        if self._buffers is None:
            super()._keep(pages)
            return
        qo_indptr, *given = pages
        for buffer, tensor in zip(self._buffers, given, strict=True):
            assert buffer is not None
            assert len(tensor) <= len(buffer)
            buffer[: len(tensor)] = tensor
        assert len(given[2]) == len(self._buffers[2]), "the batch size is fixed"  # type: ignore[arg-type]
        self._pages = qo_indptr, *self._buffers  # type: ignore[assignment]


class _Prefill(_Wrapper):
    def plan(
        self, qo_indptr: torch.Tensor, paged_kv_indptr: torch.Tensor,
        paged_kv_indices: torch.Tensor, paged_kv_last_page_len: torch.Tensor, *sizes: int,
        **settings: Any,
    ) -> None:  # fmt: skip
        assert settings["causal"]
        pages = qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len
        self._plan(*pages, *sizes, **settings)
