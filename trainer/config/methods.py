"""The configuration of each adapter method, under the key `method`."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from trainer.config.common import STRICT, Positive, Share


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
