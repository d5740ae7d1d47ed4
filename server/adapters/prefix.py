"""Prefix tuning (arXiv:2101.00190) in PEFT's format: keys and values of virtual tokens, by layer.

A projection (`prefix_projection`) has run when PEFT saves. Keys are as attention reads them: PEFT
puts them into its cache as they are, and no RoPE turns them.
"""

from collections.abc import Mapping
from typing import Any

import torch

from server.adapters.peft_format import CONFIG, check_fits, check_keys
from server.adapters.soft_prompt import TENSOR, check_virtual_tokens, take_tensors
from server.adapters.weights import AdapterWeights
from server.errors import AdapterRefusedError
from server.types import BaseInfo

_READ = frozenset(
    {
        "num_virtual_tokens", "num_transformer_submodules", "task_type",
        "num_layers", "num_attention_heads", "token_dim",
    }
)  # fmt: skip
# How training began, and what computed the states.
_HARMLESS = frozenset({"init_weights", "prefix_projection", "encoder_hidden_size"})
_OFF: dict[str, tuple[object, str]] = {
    "modules_to_save": (None, "train without modules_to_save"),
}


def read_prefix(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], base: BaseInfo
) -> AdapterWeights:
    """Reads PEFT's `adapter_config.json` and tensor.

    Raises AdapterRefusedError naming the key or tensor at fault.
    """
    check_keys(config, read=_READ, harmless=_HARMLESS, off=_OFF)
    count = check_virtual_tokens(config, base)
    num_layers, num_heads, head_dim = base.cache_shape
    # PEFT counts heads and width of keys and values, not of queries.
    wanted = {
        "num_layers": num_layers,
        "num_attention_heads": num_heads,
        "token_dim": num_heads * head_dim,
    }
    for key, value in wanted.items():
        if config.get(key) not in (None, value):
            raise AdapterRefusedError(
                f"{CONFIG}: {key} {str(config[key])[:80]}, the base's keys and values have {value}"
            )
    width = num_layers * 2 * num_heads * head_dim
    (states,) = take_tensors(tensors, {TENSOR: (count, width)})
    check_fits(TENSOR, states, base.dtype)
    states = states.view(count, num_layers, 2, num_heads, head_dim)
    return AdapterWeights(prefix=states.transpose(0, 1).contiguous())
