"""Recording what a step launches, so that it can be launched again as a whole."""

from collections.abc import Callable
from typing import Protocol

import torch

from server.config import EngineConfig
from server.errors import StartupError
from server.models.loader import LoadedBase

Run = Callable[[], torch.Tensor]
Replay = Callable[[], None]


class Capture(Protocol):
    """Records runs on one device."""

    def __call__(self, run: Run) -> tuple[torch.Tensor, Replay]:
        """What `run` returns, and a function that does its work again: on the same memory and with
        the same numbers of the host, into the same result. Only a replay fills the result."""


class CudaCapture:
    """CUDA graphs, which share one pool of memory: the result of one is gone once another runs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Run) -> tuple[torch.Tensor, Replay]:
        """As `Capture`."""
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream(self._device)
        try:
            # The loader's thread may allocate and copy meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                out = run()
        except BaseException:
            # torch stays on the capture's own stream if ending the capture is what fails.
            torch.cuda.set_stream(stream)
            raise
        return out, graph.replay


def cuda_capture(base: LoadedBase, config: EngineConfig) -> CudaCapture:
    """CUDA graphs for `base`. Raises StartupError where steps of it cannot be captured."""
    reason = None
    if base.device.type != "cuda":
        reason = f"the base is on {base.device.type}"
    elif config.deterministic:
        reason = "steps are padded, which deterministic mode does in its own way"
    elif base.info.int8_threshold > 0:
        reason = "int8 with a threshold asks the device in each product which columns are outliers"
    if reason is not None:
        raise StartupError(f"engine.cuda_graphs: {reason}; leave it off")
    return CudaCapture(base.device)
