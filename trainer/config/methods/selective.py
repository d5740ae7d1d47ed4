"""The configuration of methods that scale or train some of the base's own parameters, or all."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from trainer.config.common import STRICT

Names = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class IA3Config:
    """Trained factors of keys, values and feed-forward activations (arXiv 2205.05638)."""

    type: Literal["ia3"]
    """The method's name."""
    targets: Names | None = None
    """Linears to scale, by the ends of their names. Null: keys, values and the last feed-forward
    linear (section 3.3 there), or for other layouts what PEFT has for the model type."""
    feedforward: Names | None = None
    """Those of `targets` whose inputs are scaled, not their outputs. Null: as `targets`."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainableTokensConfig:
    """Trained embeddings of a few tokens of the vocabulary; the others stay."""

    type: Literal["trainable_tokens"]
    """The method's name."""
    tokens: Annotated[tuple[int | str, ...], Field(min_length=1)]
    """Words that are one token of the base, or ids."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LNTuningConfig:
    """Trained norms (Zhao et al., arXiv 2312.11420)."""

    type: Literal["ln_tuning"]
    """The method's name."""
    targets: Names | None = None
    """Norms to train, by the ends of their names. Null: all."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LayersConfig:
    """Chosen modules, trained as a whole: linears, norms, embeddings, the output head."""

    type: Literal["layers"]
    """The method's name."""
    layers: tuple[int, ...] | None = None
    """Numbers of decoder layers, from 0; from the end: -1 is the last."""
    modules: Names | None = None
    """Modules by the ends of their names, such as `mlp.down_proj`, `norm`, `lm_head`; with `layers`
    only those in these layers. Null: all in these layers."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BitFitConfig:
    """Trained biases of linears and norms (Ben Zaken et al., arXiv 2106.10199)."""

    type: Literal["bitfit"]
    """The method's name."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FullConfig:
    """All of the base's parameters. The result is a new base, and no adapter."""

    type: Literal["full"]
    """The method's name."""
