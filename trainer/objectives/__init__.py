"""Objectives: each turns a batch into a loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trainer import tokens
from trainer.objectives import supervised


@dataclass(frozen=True)
class Objective:
    """What the loop asks of an objective."""

    collate: Callable[[list[Any], str], Any]
    """Examples and device -> batch, with `num_tokens`, `num_terms` and `where`."""
    summed_loss: Callable[[Any, Any], Tensor]
    """Model and batch -> loss summed over `num_terms` terms."""


OBJECTIVES: dict[str, Objective] = {
    "supervised": Objective(tokens.collate, supervised.summed_loss),
}
