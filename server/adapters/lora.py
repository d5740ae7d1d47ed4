"""LoRA adapters in PEFT's format."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from server.types import BaseInfo


@dataclass(frozen=True)
class LoraModule:
    """The update of one linear: `scaling * B @ A @ x`. A is [r, in], B is [out, r]."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float


@dataclass(frozen=True)
class LoraWeights:
    """A LoRA adapter: its updates by full module path."""

    modules: Mapping[str, LoraModule]
    rank: int
    size_bytes: int


def read_lora(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], base: BaseInfo
) -> LoraWeights:
    """Reads PEFT's `adapter_config.json` and tensors. Raises AdapterRefusedError."""
    raise NotImplementedError
