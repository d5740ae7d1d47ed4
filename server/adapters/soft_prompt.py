"""Soft prompts: prompt tuning (arXiv:2104.08691) in PEFT's format."""

from collections.abc import Mapping
from typing import Any

import torch

from server.adapters.peft_format import (
    CONFIG,
    TENSORS,
    check_fits,
    check_keys,
    check_task,
    check_tensor,
    whole_number,
)
from server.adapters.weights import AdapterWeights
from server.errors import AdapterRefusedError
from server.types import BaseInfo

_TENSOR = "prompt_embeddings"
_READ = frozenset({"num_virtual_tokens", "token_dim", "num_transformer_submodules", "task_type"})
# How training began; PEFT fills in the base's layer counts, which only prefix tuning uses.
_HARMLESS = frozenset(
    {
        "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path",
        "tokenizer_kwargs", "num_attention_heads", "num_layers",
    }
)  # fmt: skip
_OFF: dict[str, tuple[object, str]] = {
    "modules_to_save": (None, "train without modules_to_save"),
}


def read_soft_prompt(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], base: BaseInfo
) -> AdapterWeights:
    """Reads PEFT's `adapter_config.json` and tensors of prompt tuning.

    Raises AdapterRefusedError naming the key or tensor at fault.
    """
    check_keys(config, read=_READ, harmless=_HARMLESS, off=_OFF)
    check_task(config)
    count = whole_number(config, "num_virtual_tokens")
    submodules = config.get("num_transformer_submodules")
    if submodules not in (None, 1):
        raise AdapterRefusedError(
            f"{CONFIG}: num_transformer_submodules {submodules!r} is not served; a decoder has 1"
        )
    if config.get("token_dim") not in (None, base.hidden_size):
        raise AdapterRefusedError(
            f"{CONFIG}: token_dim {config['token_dim']!r}, the base has {base.hidden_size}"
        )
    if count >= base.max_context_tokens:
        raise AdapterRefusedError(
            f"{CONFIG}: num_virtual_tokens {count} leaves no room in the context of "
            f"{base.max_context_tokens}"
        )
    unknown = next((name for name in tensors if name != _TENSOR), None)
    if unknown is not None:
        raise AdapterRefusedError(f"{TENSORS}: unknown tensor {unknown[:200]!r}")
    if _TENSOR not in tensors:
        raise AdapterRefusedError(f"{TENSORS}: missing tensor {_TENSOR!r}")
    embeddings = tensors[_TENSOR]
    check_tensor(_TENSOR, embeddings, (count, base.hidden_size))
    check_fits(_TENSOR, embeddings, base.dtype)
    return AdapterWeights(prompt=embeddings)
