"""What an adapter does to each module of its base."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from understudy.artifact import read_safetensors_header

_PREFIX = "base_model.model."
# What PEFT puts behind a module's name. Any other tensor is the module's own, saved whole.
_PARTS = (
    "lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_embedding_A", "lora_embedding_B",
    "lora_magnitude_vector", "lora_magnitude_vector.weight", "ia3_l", "ln_tuning_layers.weight",
    "ln_tuning_layers.bias", "token_adapter.trainable_tokens_delta", "trainable_tokens_delta",
    "base_layer.weight", "base_layer.bias",
)  # fmt: skip


@dataclass(frozen=True)
class LowRank:
    """A low-rank update as a matrix: its singular values tell how much of its rank it uses."""

    rank: int
    effective_rank: float
    """exp of the entropy of the singular values over their sum (Roy and Vetterli 2007)."""
    norm: float
    """Frobenius norm of the update, its scaling included."""
    largest: float
    """Largest singular value."""
    relative: float | None
    """Norm over that of the base's weight; None without one of that name and size."""


@dataclass(frozen=True)
class Layer:
    """What an adapter holds for one module of the base."""

    module: str
    num_parameters: int
    norms: dict[str, float]
    """Norm of each tensor, by what PEFT calls it."""
    low_rank: LowRank | None = None
    relative_change: dict[str, float | None] = field(default_factory=dict)
    """Norm of what stands in the place of a base's weight less that weight, over the weight's; of
    IA3's factors, over that of factors of 1. None where the weight is zero."""


class BaseTensors:
    """Weights of a base by name, read one at a time."""

    def __init__(self, directory: Path) -> None:
        """Reads the headers. Raises ArtifactError."""
        self._files = {
            entry.name: path
            for path in sorted(directory.glob("*.safetensors"))
            for entry in read_safetensors_header(path)
        }

    def get(self, name: str) -> Tensor | None:
        """A tensor in float32, or None if there is none of that name."""
        path = self._files.get(name)
        if path is None:
            return None
        with safe_open(path, "pt") as file:
            return file.get_tensor(name).float()  # type: ignore[no-any-return]


def split_name(name: str) -> tuple[str, str]:
    """Module of the base, and what the tensor is there."""
    name = name.removeprefix(_PREFIX)
    for part in _PARTS:
        if name.endswith(f".{part}"):
            return name.removesuffix(f".{part}"), part
    module, _, part = name.rpartition(".")
    return module, part


def layer_of(
    module: str, parts: Mapping[str, Tensor], config: Mapping[str, Any], weights: BaseTensors
) -> Layer:
    """What the tensors `parts` of one module, by what PEFT calls them, do to it."""
    changes: dict[str, float | None] = {}
    for part, tensor in parts.items():
        own = part.removeprefix("ln_tuning_layers.").removeprefix("base_layer.")
        original = weights.get(f"{module}.{own}") if own in ("weight", "bias") else None
        if original is not None and original.shape == tensor.shape:
            norm, moved = float(original.norm()), float((tensor - original).norm())
            # PEFT saves the base's own embeddings beside an update of them.
            if moved or not part.startswith("base_layer."):
                changes[own] = moved / norm if norm else None
        elif part == "ia3_l":
            changes[part] = float((tensor - 1).square().mean().sqrt())
    return Layer(
        module,
        sum(tensor.numel() for tensor in parts.values()),
        {part: float(tensor.norm()) for part, tensor in parts.items()},
        _low_rank(module, parts, config, weights),
        changes,
    )


def prefix_layers(prompt: Tensor, config: Mapping[str, Any]) -> tuple[Layer, ...]:
    """Keys and values of a prefix [N, layers * 2 * width] by layer, if that is its shape."""
    count, width = config.get("num_layers") or 0, config.get("token_dim") or 0
    if prompt.shape[1] != count * 2 * width or not count:
        return ()
    parts = prompt.view(len(prompt), count, 2, width)
    return tuple(
        Layer(
            f"layers.{i}",
            parts[:, i].numel(),
            {"keys": float(parts[:, i, 0].norm()), "values": float(parts[:, i, 1].norm())},
        )
        for i in range(count)
    )


def _low_rank(
    module: str, parts: Mapping[str, Tensor], config: Mapping[str, Any], weights: BaseTensors
) -> LowRank | None:
    down = parts.get("lora_A.weight", parts.get("lora_embedding_A"))  # [R, I]
    up = parts.get("lora_B.weight", parts.get("lora_embedding_B"))  # [O, R]
    if down is None or up is None or down.dim() != 2 or up.dim() != 2:
        return None
    rank = down.shape[0]
    # The update's singular values are those of a [R, R] matrix; the update itself may be large.
    inner = torch.linalg.qr(up)[1] @ torch.linalg.qr(down.T)[1].T
    values = torch.linalg.svdvals(inner) * _scaling(module, rank, config)
    shares = values / values.sum().clamp_min(1e-30)
    entropy = -(shares * shares.clamp_min(1e-30).log()).sum()
    norm = float(values.norm())
    original = weights.get(f"{module}.weight")
    sizes = sorted((up.shape[0], down.shape[1]))
    fits = original is not None and sorted(original.shape) == sizes
    return LowRank(
        rank=rank,
        effective_rank=float(entropy.exp()) if norm else 0.0,
        norm=norm,
        largest=float(values[0]),
        relative=norm / float(original.norm()) if fits and original is not None else None,
    )


def _scaling(module: str, rank: int, config: Mapping[str, Any]) -> float:
    """The factor of a LoRA update, as PEFT computes it."""
    alpha = config.get("lora_alpha", rank)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
