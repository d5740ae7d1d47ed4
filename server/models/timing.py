"""How long one call takes, as it would within a step."""

import time
from collections.abc import Callable

import torch

PASSES = 10
_WARM = 2
_CACHE_BYTES = 1 << 28
# Long enough for the host to launch the call meanwhile.
_FLUSHES = 8


def seconds(work: Callable[[], object], device: torch.device, passes: int = PASSES) -> float:
    """The median of some calls, after two that compile and warm up.

    On CUDA it is the device's own time. Each call is queued behind a write of gigabytes: that
    drives what it reads out of the second-level cache, as other weights do in a step, and lasts
    until the host has launched the call, which would otherwise count in place of a short kernel.
    """
    measure = _on_cuda if device.type == "cuda" else _on_host
    return sorted(measure(work, device, passes + _WARM)[_WARM:])[passes // 2]


def _on_host(work: Callable[[], object], device: torch.device, count: int) -> list[float]:
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return times


def _on_cuda(work: Callable[[], object], device: torch.device, count: int) -> list[float]:
    others = torch.empty(_CACHE_BYTES, dtype=torch.int8, device=device)
    times = []
    with torch.cuda.device(device):
        for _ in range(count):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            for _ in range(_FLUSHES):
                others.zero_()
            begin.record()
            work()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
    return times
