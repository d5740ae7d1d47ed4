"""A `Capture` for the CPU that repeats a run as a CUDA graph would: the operations on tensors that
it made, on the same memory, without the Python around them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from server.engine.capture import Replay, Run
from server.kernels import AdapterRows, Kernels

# What reads numbers back from the device, makes a shape depend on them, or brings some from the
# host.
_FORBIDDEN = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::lift_fresh",
    "aten::lift_fresh_copy",
    "aten::equal",
}
_LAUNCHING = ("linear", "linear_nf4", "cache_write", "attention", "rms_norm", "silu_mul")


class Tape(TorchDispatchMode):
    """Records; one at a time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lengths: list[int] = []
        """Operations of each recording."""
        self._steps: list[Callable[[], None]] | None = None

    def __call__(self, run: Run) -> tuple[torch.Tensor, Replay]:
        steps: list[Callable[[], None]] = []
        self._steps = steps
        with self:
            out = run()
        self._steps = None
        self.lengths.append(len(steps))
        # What recording computed must not be taken for what a replay does.
        if out.is_floating_point():
            out.fill_(float("nan"))

        def replay() -> None:
            for step in steps:
                step()

        return out, replay

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.name().split(".")[0]
        assert name not in _FORBIDDEN, f"{name} within a captured step"
        return self.launch(lambda: func(*args, **kwargs), (args, kwargs))

    def launch(self, work: Callable[[], Any], given: object) -> Any:
        """Does `work` on the tensors in `given`, and notes it if something is being recorded."""
        if self._steps is None:
            return work()
        steps, self._steps = self._steps, None
        try:
            made = work()
        finally:
            self._steps = steps
        known = {t.untyped_storage().data_ptr() for t in _tensors(given)}
        # Views, and what was written in place, are where they were.
        fresh = [t for t in _tensors(made) if t.untyped_storage().data_ptr() not in known]

        def again() -> None:
            anew = _tensors(work())
            if fresh:
                for target, source in zip(_tensors(made), anew, strict=True):
                    target.copy_(source)

        steps.append(again)
        return made


def _tensors(values: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


class TapedKernels:
    """`Kernels`, each call of which is one operation on the tape."""

    def __init__(self, inner: Kernels, tape: Tape) -> None:
        self.inner = inner
        self._tape = tape
        for name in _LAUNCHING:
            setattr(self, name, self._taped(getattr(inner, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def slot_rows(
        self,
        table: torch.Tensor,
        max_ranks: npt.NDArray[np.int64],
        dtype: torch.dtype,
        tiles: torch.Tensor,
    ) -> "TapedRows":
        rows = self.inner.slot_rows(table, max_ranks, dtype, tiles)  # type: ignore[attr-defined]
        return TapedRows(rows, self._taped(rows.add))

    def _taped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            # A product that takes updates along gets the rows themselves.
            args = tree_map_only(TapedRows, lambda rows: rows.inner, args)
            kwargs = tree_map_only(TapedRows, lambda rows: rows.inner, kwargs)
            with torch.utils._python_dispatch._disable_current_modes():
                return self._tape.launch(lambda: function(*args, **kwargs), (args, kwargs))

        return call


class TapedRows:
    """The runs of a step, each use of which is one operation on the tape."""

    def __init__(self, inner: AdapterRows, add: Callable[..., None]) -> None:
        self.inner = inner
        self.add = add

    def scale_input(self, group: int, x: torch.Tensor) -> torch.Tensor:
        return self.inner.scale_input(group, x)
