"""Where adapters' device forms are made, so that no step waits for a copy."""

import contextlib
from collections.abc import Iterable
from typing import Protocol

import torch


class SideStream(Protocol):
    """Work that runs in order, beside the stream of the steps.

    One thread queues work and waits for it; then another hands the result over to the steps.
    """

    def queueing(self) -> contextlib.AbstractContextManager[object]:
        """What the block launches goes here. Its results are not there before `wait`."""

    def wait(self) -> None:
        """Returns once all that was queued is done."""

    def hand_over(self, tensors: Iterable[torch.Tensor]) -> None:
        """Tells that steps read these results from now on: whenever they are freed, their memory
        goes to nobody before the steps that were queued by then are done."""


class InlineStream:
    """The CPU's: work is done when it is asked for."""

    def queueing(self) -> contextlib.AbstractContextManager[object]:
        """Nothing to switch."""
        return contextlib.nullcontext()

    def wait(self) -> None:
        """Nothing to wait for."""

    def hand_over(self, tensors: Iterable[torch.Tensor]) -> None:
        """Nothing to tell."""


class CudaSideStream:
    """A CUDA stream. Sources in pinned memory are copied while the steps' kernels run."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def queueing(self) -> contextlib.AbstractContextManager[object]:
        """As `SideStream`."""
        return torch.cuda.stream(self._stream)

    def wait(self) -> None:
        """As `SideStream`; asleep, not spinning."""
        done = torch.cuda.Event(blocking=True)
        done.record(self._stream)
        done.synchronize()

    def hand_over(self, tensors: Iterable[torch.Tensor]) -> None:
        """As `SideStream`. The thread's current stream is the steps'."""
        for tensor in tensors:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))


def side_stream(device: torch.device) -> SideStream:
    """The device's."""
    return CudaSideStream(device) if device.type == "cuda" else InlineStream()
