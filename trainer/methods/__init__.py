"""Adapter methods: each attaches its parameters through PEFT."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import peft
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.methods import lora, prompt_tuning


@dataclass(frozen=True)
class Method:
    """What the trainer asks of a method. `settings` is the method's own configuration."""

    attach: Callable[[PreTrainedModel, Any, PreTrainedTokenizerBase], peft.PeftModel]
    """Wraps the base with fresh parameters, drawn from torch's current random state."""
    detach: Callable[[peft.PeftModel], PreTrainedModel]
    """Gives the base back as it was."""
    num_trainable: Callable[[PreTrainedModel, Any], int]
    """Parameters it would add to a base of this outline. Raises ConfigError if it cannot."""
    learning_rate: float
    """Default, from published practice."""


METHODS: dict[str, Method] = {
    "lora": Method(lora.attach, lora.detach, lora.num_trainable, lora.LEARNING_RATE),
    "prompt_tuning": Method(
        prompt_tuning.attach,
        prompt_tuning.detach,
        prompt_tuning.num_trainable,
        prompt_tuning.LEARNING_RATE,
    ),
}
