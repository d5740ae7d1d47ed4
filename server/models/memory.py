"""How much memory there is, and what may be held in it."""

import os
from pathlib import Path

import torch

# Of the free memory that dequantized weights may fill: the rest is for the cache, the adapters
# and everybody else.
HELD_SHARE = 0.5


def available_bytes(device: torch.device) -> int:
    """Memory that can be allocated on `device`: on CPU the smaller of what the machine and the
    container's limit (cgroup v2) leave."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = []
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    limit, used = _cgroup_bytes("max"), _cgroup_bytes("current")
    if limit is not None and used is not None:
        found.append(limit - used)
    return max(0, min(found, default=0))


def host_bytes() -> int:
    """Memory of this machine, or of the container (cgroup v2) where that is less."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _cgroup_bytes("max")
    return installed if limit is None else min(installed, limit)


def fits_held(num_values: int, dtype: torch.dtype, available: int) -> bool:
    """Whether `num_values` weights of `dtype` fit in HELD_SHARE of the `available` bytes."""
    return num_values * dtype.itemsize <= HELD_SHARE * available


def _cgroup_bytes(key: str) -> int | None:
    text = _read(f"/sys/fs/cgroup/memory.{key}").strip()
    return int(text) if text.isdigit() else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
