"""The configuration of LoRA."""

from typing import Literal

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
