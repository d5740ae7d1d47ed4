"""A `SideStream` for the CPU, whose results come as late as a device's may."""

import contextlib
import threading
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class LateStream(TorchDispatchMode):
    """What is made while queueing is NaN until `wait`, which returns once `done` is set.

    `handed` are the results that steps were said to read, as long as they are alive.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.done = threading.Event()
        self.done.set()
        self.waiting = threading.Event()
        self.handed: MutableMapping[torch.Tensor, None] = WeakIdKeyDictionary()
        self.num_made = 0
        self._made: dict[int, torch.Tensor] = {}
        self._values: list[tuple[torch.Tensor, torch.Tensor]] = []

    @contextlib.contextmanager
    def queueing(self) -> Iterator[None]:
        assert not self._values, "nobody waited for what was queued before"
        self._made = {}
        with self:
            yield
        self._values = [
            (tensor, tensor.clone()) for tensor in self._made.values() if tensor.is_floating_point()
        ]
        for tensor, _ in self._values:
            tensor.fill_(float("nan"))
        self.num_made += len(self._values)

    @torch.inference_mode()
    def wait(self) -> None:
        self.waiting.set()
        assert self.done.wait(timeout=240)
        for tensor, values in self._values:
            tensor.copy_(values)
        self._values = []
        self._made = {}

    def hand_over(self, tensors: Iterable[torch.Tensor]) -> None:
        tensors = list(tensors)
        assert not self._values, "handed over before it was done"
        assert not any(tensor.isnan().any() for tensor in tensors)
        self.handed.update(dict.fromkeys(tensors))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {_memory(t) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(out):
            # Views of the adapter's own tensors are no results.
            if isinstance(tensor, torch.Tensor) and _memory(tensor) not in given:
                self._made[_memory(tensor)] = tensor
        return out


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
