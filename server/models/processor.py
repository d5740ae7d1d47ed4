"""How many threads the products of a step should take."""

import os
from pathlib import Path

import torch

_CPUS = Path("/sys/devices/system/cpu")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def num_cores() -> int:
    """Physical cores that this process may run on, at most the container's limit (cgroup v2).

    Two threads on one core share its arithmetic units and only wait for each other.
    """
    cpus = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    # Logical processors of one core name the same siblings.
    siblings = {_read(_CPUS / f"cpu{n}/topology/thread_siblings_list") or str(n) for n in cpus}
    return max(1, min(len(siblings), _container_limit() or len(siblings)))


def num_threads_asked() -> int | None:
    """What OMP_NUM_THREADS asks for, if it is set to a number from 1."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdigit() and int(first) > 0 else None


def _container_limit() -> int | None:
    """Whole processors' worth of time, at least 1; None without a limit."""
    quota, _, period = _read(_CGROUP_LIMIT).partition(" ")
    if not (quota.isdigit() and period.isdigit() and int(period)):
        return None
    return max(1, int(quota) // int(period))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def compute_with(num_threads: int) -> None:
    """Lets torch use so many threads for what this thread computes."""
    # Asking first: a thread's first operation takes over the process's number, whatever it was
    # told itself before.
    torch.get_num_threads()
    torch.set_num_threads(num_threads)
