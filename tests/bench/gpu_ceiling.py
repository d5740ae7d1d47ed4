"""What a device gives at best, and how near to it something comes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from server.models.timing import seconds

Figures = Mapping[str, Any]


def device() -> torch.device:
    """CUDA, or else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Ceiling:
    """Bytes read and bf16 operations, each a second."""

    read_bytes_per_s: float
    flop_per_s: float

    def limit_s(self, num_bytes: float, flop: float = 0.0) -> float:
        """The least time for work that moves so many bytes and does so many operations."""
        return max(num_bytes / self.read_bytes_per_s, flop / self.flop_per_s)

    def compare(self, own_s: float, num_bytes: float, flop: float = 0.0) -> Figures:
        """What work that took `own_s` achieved, and its share of what was possible."""
        limit_s = self.limit_s(num_bytes, flop)
        return {
            "own_s": own_s, "bytes_per_s": num_bytes / own_s, "flop_per_s": flop / own_s,
            "limit_s": limit_s, "share": limit_s / own_s,
        }  # fmt: skip


def measure_ceiling(passes: int) -> Ceiling:
    """A sum over 8 GiB, and a product of large bf16 matrices."""
    found = Ceiling(_read_rate(passes), _product_rate(passes))
    if torch.cuda.is_available():
        # For the cache of an engine.
        torch.cuda.empty_cache()
    return found


def _read_rate(passes: int) -> float:
    values = torch.ones(1 << (31 if torch.cuda.is_available() else 18), device=device())
    return values.nbytes / seconds(values.sum, device(), passes)


def _product_rate(passes: int) -> float:
    size = 8192 if torch.cuda.is_available() else 256
    a = torch.randn(size, size, device=device(), dtype=torch.bfloat16)
    return 2 * size**3 / seconds(lambda: a @ a, device(), passes)


def ceiling(passes: int) -> Figures:
    """The above, and what a copy of pinned host memory to the device gives."""
    has_cuda = torch.cuda.is_available()
    host = torch.empty(1 << (28 if has_cuda else 18), dtype=torch.int8, pin_memory=has_cuda)
    target = torch.empty_like(host, device=device())
    copy_s = seconds(lambda: target.copy_(host, non_blocking=True), device(), passes)
    return {**asdict(measure_ceiling(passes)), "host_bytes_per_s": host.nbytes / copy_s}
