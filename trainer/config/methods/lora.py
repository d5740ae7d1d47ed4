"""The configuration of LoRA and its variants."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from trainer.config.common import STRICT, Positive, PositiveFloat, Share

LoraType = Literal[
    "lora", "rslora", "dora", "lora_plus", "lora_fa", "pissa", "olora", "corda", "lora_ga", "eva",
    "loftq", "mica",
]  # fmt: skip
LoraInit = Literal[
    "kaiming", "gaussian", "orthogonal", "pissa", "olora", "corda", "lora_ga", "eva", "loftq",
    "mica",
]  # fmt: skip
Index = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoraConfig:
    """Low-rank updates of linear layers (Hu et al., arXiv 2106.09685).

    `type` is `lora` or a published variant of it: that is LoRA with one of the settings below
    fixed, and with the learning rate and alpha it was published with. All take all settings.
    """

    type: LoraType = "lora"
    """`rslora`: `use_rslora`; `dora`: `use_dora`; `lora_plus`: `learning_rate_ratio` 16; `lora_fa`:
    `freeze_a`; the others: the `init` of that name."""
    rank: Positive = 16
    """Rank of each update. Quality hardly depends on it from 8 upwards (QLoRA, appendix A.1)."""
    alpha: Positive | None = None
    """The update is scaled by alpha / rank. Null: as `type` was published; for plain LoRA
    2 * rank, a scale of 2 at any rank."""
    dropout: Share = 0.0
    """Share of a layer's inputs dropped before the update, while training."""
    targets: str | tuple[str, ...] = "all-linear"
    """Layers to adapt: `all-linear` (QLoRA, figure 2: needed to match full fine-tuning), a regular
    expression over whole module names, or a list of name endings such as `q_proj`. Embeddings and
    output head are adapted where they are named."""
    layers: tuple[int, ...] | None = None
    """Adapt only these of the model's layers: numbers from 0, or from the end, -1 the last. Not
    with a regular expression."""
    layers_pattern: str | None = None
    """For `layers`: name of the list of layers, if it is none of the usual."""
    rank_pattern: dict[str, Positive] = Field(default_factory=dict)
    """Other ranks for some layers, by the end of their name or a regular expression for it."""
    alpha_pattern: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Other values of alpha, likewise."""
    use_rslora: bool | None = None
    """Scale by alpha / sqrt(rank) instead (arXiv 2312.03732): stable for ranks above 64. Null: as
    `type` says."""
    use_dora: bool | None = None
    """Train the size of each output's weights apart from their direction (arXiv 2402.09353). Null:
    as `type` says."""
    learning_rate_ratio: Annotated[float, Field(ge=1)] | None = None
    """LoRA+ (arXiv 2402.12354): the learning rate of B as a multiple of A's. Null: as `type` says,
    else 1."""
    freeze_a: bool | None = None
    """LoRA-FA (arXiv 2308.03303): A stays as it was drawn, only B is trained. Null: as `type` says.
    """
    init: LoraInit | None = None
    """Where A and B start. Null: as `type` says, else `kaiming`, LoRA's own: A random, B zero."""
    svd_iterations: Annotated[int, Field(ge=0)] | Literal["exact"] = 16
    """For `init: pissa`: subspace iterations of a fast singular value decomposition, or `exact`.
    PEFT's documentation of PiSSA: 16 train about as well as `exact`, and take seconds at 7B."""
    init_examples: Positive = 256
    """For `init: corda`, `lora_ga` and `eva`: look at this many training examples, at most. 256 as
    in PEFT's CorDA example; its LoRA-GA example takes 128."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Also train the base's own biases: all, or those of adapted layers."""
    lora_bias: bool = False
    """Give the update a bias of its own, behind B."""
    modules_to_save: tuple[str, ...] = ()
    """Modules trained as a whole beside the updates, by the end of their name: norms, embeddings,
    output head."""
    trainable_token_indices: tuple[Index, ...] = ()
    """Tokens whose embeddings are trained beside the updates, by id."""
