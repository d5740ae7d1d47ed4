"""The configuration of optimiser and loop, under the keys `optimiser` and `loop`."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from trainer.config.common import STRICT, Positive, PositiveFloat, Share


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimiserConfig:
    """AdamW and how much it gets to see."""

    learning_rate: PositiveFloat | None = None
    """Largest step size. Null: the method's default, see `trainer.methods`."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay per unit of learning rate. Adapters are small and start near zero."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of AdamW's two moments."""
    warmup_share: Share = 0.03
    """Share of the steps over which the learning rate rises from 0."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate goes down to 0 after that."""
    batch_size: Positive = 16
    """Examples per forward pass."""
    accumulation: Positive = 1
    """Forward passes per step. The loss is normalised over all of their completion tokens."""
    epochs: PositiveFloat = 1.0
    """Passes over the training examples."""
    max_steps: Positive | None = None
    """Stop after this many steps, if that comes first."""
    clip_norm: PositiveFloat = 1.0
    """Largest norm of the gradient of all trained parameters."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoopConfig:
    """Validation and checkpoints."""

    validate_every: Positive | None = None
    """Steps between validations. Null: one epoch. Before and after training it always validates."""
    checkpoint_every: Positive | None = None
    """Steps between checkpoints. Null: as often as validation."""
    keep: Literal["best", "last"] = "best"
    """Which state to export: the one of lowest validation loss, or the last."""
