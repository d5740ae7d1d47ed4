"""Loads a base model: quantized, with our linears and paged attention in place."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from server.types import BaseInfo


@dataclass(frozen=True)
class LoadedBase:
    """A base model ready to run. Serves one engine."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    info: BaseInfo
    eos_token_ids: frozenset[int]


def load_base(
    directory: Path,
    *,
    quantization: str = "nf4",
    dtype: str = "auto",
    device: str = "cpu",
    weight_form: str = "auto",
    name: str = "",
    deterministic: bool = False,
    int8_threshold: float | None = None,
) -> LoadedBase:
    """Loads a Hugging Face model directory.

    `quantization` is `nf4`, `int8` or `none`; `dtype` is `auto` (float32 on CPU, bfloat16 on
    CUDA), `float32`, `bfloat16` or `float16`; `weight_form` is `auto`, `nf4_held` or `nf4_packed`.
    Raises StartupError with one line.
    """
    raise NotImplementedError((directory, torch.device(device)))
