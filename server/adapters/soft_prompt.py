"""Soft prompts (prompt tuning) in PEFT's format."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from server.types import BaseInfo


@dataclass(frozen=True)
class SoftPrompt:
    """Virtual tokens: `embeddings` [n, hidden] enter in front of the prompt's."""

    embeddings: torch.Tensor

    @property
    def num_virtual_tokens(self) -> int:
        """Positions they take."""
        return self.embeddings.shape[0]

    @property
    def size_bytes(self) -> int:
        """Memory they take."""
        return self.embeddings.nbytes


def read_soft_prompt(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], base: BaseInfo
) -> SoftPrompt:
    """Reads PEFT's `adapter_config.json` and tensors. Raises AdapterRefusedError."""
    raise NotImplementedError
