"""Objectives by name: each owns what stands between a row and a loss."""

from collections.abc import Callable
from typing import Any

from transformers import PreTrainedConfig

from trainer.config import SupervisedConfig
from trainer.objectives import classification, encoder_decoder
from trainer.objectives.objective import Batch, Example, Objective
from trainer.objectives.supervised import Supervised

__all__ = ["OBJECTIVES", "Batch", "Example", "Objective"]


def _supervised(settings: SupervisedConfig, base: PreTrainedConfig) -> Objective:
    return encoder_decoder.make(base) if base.is_encoder_decoder else Supervised()


OBJECTIVES: dict[str, Callable[[Any, PreTrainedConfig], Objective]] = {
    "supervised": _supervised,
    "classification": classification.make,
}
"""Its settings of `trainer.config` and the base's configuration -> the objective. Raises
BaseModelError if that base cannot learn it."""
