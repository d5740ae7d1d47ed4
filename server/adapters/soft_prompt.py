"""Soft prompts in PEFT's format: prompt tuning (arXiv:2104.08691), P-tuning (arXiv:2103.10385) and
multitask prompt tuning (arXiv:2303.02861).

All come down to embeddings of virtual tokens. P-tuning's encoder has run when PEFT saves, so that
its artifact is that of prompt tuning.
"""

from collections.abc import Mapping
from typing import Any

import torch

from server.adapters.peft_format import (
    CONFIG,
    TENSORS,
    check_finite,
    check_fits,
    check_keys,
    check_task,
    check_tensor,
    whole_number,
)
from server.adapters.weights import AdapterWeights
from server.errors import AdapterRefusedError
from server.types import BaseInfo
from understudy.artifact import shorten

TENSOR = "prompt_embeddings"
_ROWS, _COLUMNS = "prefix_task_rows", "prefix_task_cols"

_READ = frozenset({"num_virtual_tokens", "token_dim", "num_transformer_submodules", "task_type"})
# PEFT fills in the base's layer counts, which only prefix tuning uses.
_COUNTS = frozenset({"num_attention_heads", "num_layers"})
# How training began.
_HARMLESS = _COUNTS | {
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "tokenizer_name_or_path",
    "tokenizer_kwargs",
}
# What computed the embeddings.
_ENCODER = _COUNTS | {
    "encoder_reparameterization_type",
    "encoder_hidden_size",
    "encoder_num_layers",
    "encoder_dropout",
}
_MULTITASK_READ = _READ | {"num_tasks", "num_ranks"}
_MULTITASK_HARMLESS = _HARMLESS | {
    "prompt_tuning_init_state_dict_path",
    "prompt_tuning_init_task",
}
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
    return _read_embeddings(config, tensors, base)


def read_p_tuning(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], base: BaseInfo
) -> AdapterWeights:
    """As `read_soft_prompt`, of P-tuning."""
    check_keys(config, read=_READ, harmless=_ENCODER, off=_OFF)
    return _read_embeddings(config, tensors, base)


def read_multitask_prompt(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], base: BaseInfo
) -> AdapterWeights:
    """Reads multitask prompt tuning of one task: its embeddings are the shared ones times the
    task's product of columns and rows. Raises AdapterRefusedError naming the key or tensor."""
    check_keys(config, read=_MULTITASK_READ, harmless=_MULTITASK_HARMLESS, off=_OFF)
    count = check_virtual_tokens(config, base)
    _check_width(config, base)
    num_tasks, num_ranks = whole_number(config, "num_tasks"), whole_number(config, "num_ranks")
    if num_tasks > 1:
        raise AdapterRefusedError(
            f"{CONFIG}: num_tasks {num_tasks}: a request cannot say which of them it is; save an "
            f"adapter for each, with its row of {_COLUMNS} and of {_ROWS}, and num_tasks 1"
        )
    shared, rows, columns = take_tensors(
        tensors,
        {
            TENSOR: (count, base.hidden_size),
            _ROWS: (1, num_ranks, base.hidden_size),
            _COLUMNS: (1, count, num_ranks),
        },
    )
    embeddings = shared.float() * (columns[0].float() @ rows[0].float())
    check_finite(f"{TENSOR} * ({_COLUMNS} @ {_ROWS})", embeddings)
    check_fits(TENSOR, embeddings, base.dtype)
    return AdapterWeights(prompt=embeddings)


def check_virtual_tokens(config: Mapping[str, Any], base: BaseInfo) -> int:
    """How many virtual tokens there are. Raises AdapterRefusedError unless they are a decoder's
    and leave room in its context."""
    check_task(config)
    count = whole_number(config, "num_virtual_tokens")
    submodules = config.get("num_transformer_submodules")
    if submodules not in (None, 1):
        raise AdapterRefusedError(
            f"{CONFIG}: num_transformer_submodules {shorten(submodules)} is not served; a decoder "
            "has 1"
        )
    if count >= base.max_context_tokens:
        raise AdapterRefusedError(
            f"{CONFIG}: num_virtual_tokens {count} leaves no room in the context of "
            f"{base.max_context_tokens}"
        )
    return count


def take_tensors(
    tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> list[torch.Tensor]:
    """The tensors named in `shapes`, checked. Raises AdapterRefusedError, also for any other."""
    unknown = next((name for name in tensors if name not in shapes), None)
    if unknown is not None:
        raise AdapterRefusedError(f"{TENSORS}: unknown tensor {unknown[:200]!r}")
    for name, shape in shapes.items():
        if name not in tensors:
            raise AdapterRefusedError(f"{TENSORS}: missing tensor {name!r}")
        check_tensor(name, tensors[name], shape)
    return [tensors[name] for name in shapes]


def _read_embeddings(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], base: BaseInfo
) -> AdapterWeights:
    count = check_virtual_tokens(config, base)
    _check_width(config, base)
    (embeddings,) = take_tensors(tensors, {TENSOR: (count, base.hidden_size)})
    check_fits(TENSOR, embeddings, base.dtype)
    return AdapterWeights(prompt=embeddings)


def _check_width(config: Mapping[str, Any], base: BaseInfo) -> None:
    if config.get("token_dim") not in (None, base.hidden_size):
        raise AdapterRefusedError(
            f"{CONFIG}: token_dim {shorten(config['token_dim'])}, the base has {base.hidden_size}"
        )
