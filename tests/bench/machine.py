"""What this machine can do: read bandwidth, the rate of plain products, who else uses it."""

import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

READ_BYTES = 3 << 29  # 1.5 GiB: beyond any cache, a host's shared one included.


def read_bandwidth(passes: int = 3, size: int = READ_BYTES) -> float:
    """Bytes per second at which all of torch's threads together read memory: the best pass."""
    values = torch.ones(size // 4, dtype=torch.float32)
    best = 0.0
    for _ in range(passes):
        begin = time.perf_counter()
        values.sum()
        best = max(best, values.nbytes / (time.perf_counter() - begin))
    return best


@torch.inference_mode()
def linear_rate(shapes: Sequence[tuple[int, int]], rows: int, passes: int = 5) -> float:
    """Passes per second of one bf16 product [rows, in] x [in, out] for each (out, in), each with
    a weight of its own: the median of some passes, after one that warms up."""
    weights = [torch.randn(shape).to(torch.bfloat16) for shape in shapes]
    inputs = {into: torch.randn(rows, into).to(torch.bfloat16) for _, into in shapes}
    seconds = []
    for _ in range(passes + 1):
        begin = time.perf_counter()
        for weight in weights:
            F.linear(inputs[weight.shape[1]], weight)
        seconds.append(time.perf_counter() - begin)
    return 1 / sorted(seconds[1:])[passes // 2]


def cpu_model() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def busy_s() -> float:
    """Processor seconds that this machine has worked since it started, over all processors."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def used_s(pid: int) -> float:
    """Processor seconds that a process and its living descendants have used."""
    times: dict[int, float] = {}
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The second field, the command, may hold spaces; the rest begins after its bracket.
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # It ended meanwhile.
        number = int(path.parent.name)
        times[number] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        children.setdefault(int(fields[1]), []).append(number)
    total, waiting = 0.0, [pid]
    while waiting:
        number = waiting.pop()
        total += times.get(number, 0.0)
        waiting += children.get(number, ())
    return total
