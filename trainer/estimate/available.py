"""How much memory this process may still take."""

from pathlib import Path

import torch

_CGROUPS = Path("/sys/fs/cgroup")
# A control group without a limit has one near 2^63.
_NO_LIMIT = 1 << 60


def available_bytes(device: str) -> int | None:
    """Memory for a run on `device`: the GPU's free memory, or the host's. None if unknown.

    Of the host, what Linux says can be had without swapping, or less if a control group (of a
    container, a batch system) allows less.
    """
    if device == "cuda":
        free: int = torch.cuda.mem_get_info()[0]
        return free
    return _least(_meminfo(Path("/proc/meminfo")), _cgroup(_CGROUPS))


def _meminfo(path: Path) -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(found[0][1]) * 1024 if found else None


def _cgroup(folder: Path) -> int | None:
    """What is left of the control group's limit, version 2 or 1; its page cache can be had."""
    for limit, usage, stat, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        try:
            most = (folder / limit).read_text(encoding="ascii").strip()
            used = int((folder / usage).read_text(encoding="ascii"))
            lines = (folder / stat).read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):
            continue
        if most == "max" or int(most) >= _NO_LIMIT:
            return None
        freed = sum(int(line.split()[1]) for line in lines if line.split()[0] == cache)
        return max(0, int(most) - used + freed)
    return None


def _least(*values: int | None) -> int | None:
    known = [value for value in values if value is not None]
    return min(known) if known else None
