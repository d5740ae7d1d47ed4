"""The configuration of optimiser and loop, under the keys `optimiser` and `loop`."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from trainer.config.common import STRICT, Positive, PositiveFloat, Share


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimiserConfig:
    """The optimiser, its learning rate, and how much it gets to see."""

    algorithm: Literal["adamw", "adamw_8bit", "paged_adamw_8bit", "adafactor", "sgd"] = "adamw"
    """`adamw_8bit` keeps two bytes of state per parameter instead of eight (arXiv 2110.02861), for
    tensors from 4096 numbers upwards; `paged_adamw_8bit` lets them leave the GPU when its memory is
    short (on CPU nothing is paged). `adafactor` keeps two numbers per row and column (arXiv
    1804.04235), `sgd` a momentum."""

    learning_rate: PositiveFloat | None = None
    """Largest step size. Null: the method's default, which is for the AdamWs."""
    weight_decay: Annotated[float, Field(ge=0, le=1e30)] = 0.0
    """Decoupled weight decay per unit of learning rate. Adapters are small and start near zero."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of AdamW's two moments; the first is SGD's momentum. Adafactor has its own."""
    warmup_share: Share = 0.03
    """Share of the steps over which the learning rate rises from 0."""
    schedule: Literal["cosine", "linear", "constant", "inverse_sqrt"] = "cosine"
    """How the learning rate goes down after that."""
    min_share: Share = 0.0
    """Share of `learning_rate` below which the schedule does not fall."""
    batch_size: Positive = 16
    """Examples per forward pass."""
    max_tokens_per_batch: Positive | None = None
    """Instead of `batch_size`: as many examples of like length per forward pass as have, padded to
    the longest, at most so many tokens. An example that has more stands alone."""
    packing: bool | None = None
    """Several examples in a row where that is less work, none of which sees another. Null: where
    method and base allow it; with virtual tokens, which stand before each example, they do not."""
    accumulation: Positive = 1
    """Forward passes per step. The loss is normalised over all of their completion tokens."""
    epochs: Annotated[float, Field(gt=0, le=1e9)] = 1.0
    """Passes over the training examples."""
    max_steps: Positive | None = None
    """Stop after this many steps, if that comes first."""
    clip_norm: PositiveFloat | None = 1.0
    """Largest norm of the gradient of all trained parameters. Null: any."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoopConfig:
    """Validation and checkpoints."""

    validate_every: Positive | None = None
    """Steps between validations. Null: one epoch. Before and after training it always validates."""
    checkpoint_every: Positive | None = None
    """Steps between checkpoints. Null: as often as validation."""
    keep: Literal["best", "last"] = "best"
    """Which state to export: the one that validated best, or the last."""
    metric: Literal["loss", "rouge_l", "bleu", "accuracy", "macro_f1"] = "loss"
    """What decides which state is best: the loss, or of generated answers `rouge_l` (0 to 1),
    `bleu` (0 to 100) or `accuracy` (they equal the completion). Classification has `accuracy` and
    `macro_f1` of the classes."""
    metric_rows: Positive = 64
    """Validation rows to generate answers for, spread evenly over all of them."""
    metric_tokens: Positive = 64
    """Most tokens of a generated answer."""
    patience: Positive | None = None
    """Stop after so many validations in a row without a better `metric`. Null: never."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """What `metric` must gain for `patience` to count anew; small gains add up."""
    tensorboard: bool = False
    """Also write the log as TensorBoard reads it. Needs the extra `tensorboard`."""
    samples: Annotated[int, Field(ge=0)] = 4
    """Validation rows whose prompts and answers the run's page shows."""
