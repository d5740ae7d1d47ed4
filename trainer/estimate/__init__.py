"""What a run will take before it takes it: memory, and time."""

from trainer.estimate.available import available_bytes
from trainer.estimate.memory import MemoryEstimate, check_memory, estimate_memory
from trainer.estimate.shapes import LargestBatch, largest_batch
from trainer.estimate.speed import TimeEstimate, estimate_time

__all__ = [
    "LargestBatch",
    "MemoryEstimate",
    "TimeEstimate",
    "available_bytes",
    "check_memory",
    "estimate_memory",
    "estimate_time",
    "largest_batch",
]
