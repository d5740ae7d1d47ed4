"""The configuration of a training run: what each field means, its unit and why its default.

Parsed once, by `trainer.config_file`; unknown keys are errors. Fields left null depend on the
method or the machine and are filled in by `trainer.resolve`.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoraConfig:
    """Low-rank updates of linear layers (Hu et al., arXiv 2106.09685)."""

    type: Literal["lora"] = "lora"
    """The method's name."""
    rank: Positive = 16
    """Rank of each update. Quality hardly depends on it from 8 upwards (QLoRA, appendix A.1)."""
    alpha: Positive | None = None
    """The update is scaled by alpha / rank. Null: 2 * rank, a scale of 2 at any rank."""
    dropout: Share = 0.0
    """Share of a layer's inputs dropped before the update, while training."""
    targets: str | tuple[str, ...] = "all-linear"
    """Layers to adapt: `all-linear` (QLoRA, figure 2: needed to match full fine-tuning), a regular
    expression over whole module names, or a list of name endings such as `q_proj`."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (arXiv 2312.03732): stable for ranks above 64."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PromptTuningConfig:
    """Trained embeddings in front of the prompt (Lester et al., arXiv 2104.08691)."""

    type: Literal["prompt_tuning"]
    """The method's name."""
    num_virtual_tokens: Positive = 20
    """Number of trained embeddings. Lester et al., figure 3(a): little is gained beyond 20."""
    init: Literal["text", "vocab", "random"] = "vocab"
    """Where they start: at the words of `init_text`, at words drawn from the vocabulary, or at
    noise. Figure 3(b) there: words beat noise, most of all for small models."""
    init_text: str | None = None
    """For `init: text`: repeated or cut to `num_virtual_tokens` tokens."""
    init_vocab_size: Positive = 5000
    """For `init: vocab`: draw among this many first ids, the most common (section 3.2 there)."""


Method = Annotated[LoraConfig | PromptTuningConfig, Field(discriminator="type")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """Rows, wording and split."""

    train: Path | tuple[Path, ...]
    """JSONL file or files."""
    validation: Share | Path | tuple[Path, ...] = 0.05
    """JSONL files, or the share of the training rows to hold out. 0: no validation."""
    format: Literal["auto", "completion", "chat"] = "auto"
    """Rows with columns and a completion, or with `messages`. Auto: by the first row."""
    completion_column: str = "completion"
    """Column that holds the text to learn."""
    template: str | None = None
    """Jinja text of the prompt, over the row's columns. It travels with the adapter."""
    template_name: str | None = None
    """One of the wordings in `trainer.templates`: `summarize`, or `summarize/1` for the second."""
    max_length: Positive | None = None
    """Most tokens of an example, prompt and completion together. Null: the model's context. Longer
    examples are left out: cutting them would teach prompts that the server never sees."""
    max_overlong_share: Share = 0.05
    """Refuse to train if a larger share of the examples is too long."""
    max_validation_rows: Positive = 500
    """Use at most this many validation rows, drawn by hash: validation only watches the run."""


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


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OutputConfig:
    """Where results go."""

    dir: Path
    """Folder of the run: metrics, plot, checkpoint, adapter."""
    store: Path | None = None
    """Adapter store to publish to. Null: do not publish."""
    publish: bool = True
    """Whether to publish, if there is a store."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig:
    """One training run. Relative paths start at the current folder."""

    name: str
    """The adapter's name in the store: a-z, 0-9, '.', '_', '-'."""
    base: Path
    """Directory of the base model, in the transformers layout with safetensors weights."""
    data: DataConfig
    output: OutputConfig
    method: Method = Field(default_factory=LoraConfig)
    optimiser: OptimiserConfig = Field(default_factory=OptimiserConfig)
    loop: LoopConfig = Field(default_factory=LoopConfig)
    quantization: Literal["nf4", "int8", "none"] = "nf4"
    """Of the frozen base. NF4, doubly quantized, loses nothing measurable (QLoRA, table 3)."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the base's computation; adapters train in float32. Null: float32 on CPU, else bfloat16."""
    device: Literal["cpu", "cuda"] | None = None
    """Where to train. Null: cuda if there is one."""
    hold_dequantized: bool | None = None
    """Keep the NF4 weights dequantized in memory while training, instead of dequantizing at every
    product: on CPU the same numbers. Null: on CPU, if that takes at most 1 GiB."""
    num_threads: Positive | None = None
    """CPU threads of torch. Null: torch's default. Results repeat exactly for equal numbers."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the split, the order of examples, the initial adapter and dropout."""
