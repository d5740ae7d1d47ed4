"""Facts of a run that its result may depend on: versions, machine, memory."""

import importlib.metadata
import os
import platform
import resource
import sys
from typing import Any

import torch

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "tokenizers", "safetensors", "numpy")


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **versions}


def hardware(device: str) -> dict[str, Any]:
    """The machine, as far as results and times depend on it."""
    facts: dict[str, Any] = {
        "machine": platform.machine(),
        "system": platform.system(),
        "num_cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": device,
    }
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024


def peak_device_memory_bytes(device: str) -> int | None:
    """Most device memory that torch had allocated so far, in bytes; None on CPU."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else None
