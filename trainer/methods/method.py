"""What the trainer asks of an adapter method."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import peft
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def _no_virtual_tokens(settings: Any) -> int:
    return 0


def _no_rank(settings: Any) -> int:
    return 0


@dataclass(frozen=True)
class Method:
    """One adapter method. `settings` is always its own configuration, of `trainer.config`."""

    attach: Callable[[PreTrainedModel, Any, PreTrainedTokenizerBase], peft.PeftModel]
    """Wraps the base with fresh parameters, drawn from torch's current random state."""
    detach: Callable[[peft.PeftModel], PreTrainedModel]
    """Gives the base back as it was."""
    num_trainable: Callable[[PreTrainedModel, Any], int]
    """Parameters it would add to a base of this outline. Raises ConfigError if it cannot."""
    learning_rate: float
    """Default, from published practice."""
    num_virtual_tokens: Callable[[Any], int] = _no_virtual_tokens
    """Positions of the context that it takes."""
    rank: Callable[[Any], int] = _no_rank
    """Largest rank of its updates, as the manifest tells it; 0 if it has none."""
