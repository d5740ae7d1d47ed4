"""Objectives by name: each owns what stands between a row and a loss."""

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedConfig

from trainer.objectives import classification, supervised
from trainer.objectives.objective import Batch, Example, Objective

__all__ = ["OBJECTIVES", "Batch", "Example", "Objective"]

OBJECTIVES: dict[str, Callable[[Any, PreTrainedConfig], Objective]] = {
    "supervised": supervised.make,
    "classification": classification.make,
}
"""Its settings of `trainer.config` and the base's configuration -> the objective. Raises
BaseModelError if that base cannot learn it."""
