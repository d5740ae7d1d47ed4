"""The configuration of each objective, under the key `objective`."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from trainer.config.common import STRICT, Share


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SupervisedConfig:
    """Cross-entropy of the completion's tokens."""

    type: Literal["supervised"] = "supervised"
    """The objective's name."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClassificationConfig:
    """Cross-entropy of a row's class, from a trained head over the prompt's last token."""

    type: Literal["classification"]
    """The objective's name."""
    label_column: str = "label"
    """Column that holds the class: a text or a whole number."""
    labels: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """The classes, in the head's order. Null: those of the training rows, sorted."""
    class_weights: Literal["equal", "balanced"] = "equal"
    """Of the rows in the loss: all alike, or in inverse proportion to their class's frequency (King
    and Zeng, 2001), so that every class counts as much as another."""
    max_majority_share: Share = 0.95
    """Refuse to train with equal weights if a larger share of the rows is of one class."""


Objective = Annotated[SupervisedConfig | ClassificationConfig, Field(discriminator="type")]
