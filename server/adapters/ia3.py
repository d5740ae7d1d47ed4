"""IA3 adapters (arXiv:2205.05638) in PEFT's format: factors on inputs or outputs of linears."""

from collections.abc import Mapping
from typing import Any

import torch

from server.adapters.beside import take_beside
from server.adapters.peft_format import (
    PREFIX,
    TENSORS,
    check_fits,
    check_keys,
    check_task,
    check_tensor,
    name_list,
)
from server.adapters.targets import check_targets
from server.adapters.weights import AdapterWeights, LinearChange
from server.errors import AdapterRefusedError
from server.types import BaseInfo

_SUFFIX = ".ia3_l"
_READ = frozenset(
    {"target_modules", "feedforward_modules", "exclude_modules", "modules_to_save", "task_type"}
)
# How training began, and what concerns merging only.
_HARMLESS = frozenset({"init_ia3_weights", "fan_in_fan_out"})


def read_ia3(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], base: BaseInfo
) -> AdapterWeights:
    """Reads PEFT's `adapter_config.json` and tensors.

    Raises AdapterRefusedError naming the key or tensor at fault.
    """
    check_keys(config, read=_READ, harmless=_HARMLESS, off={})
    check_task(config)
    left = dict(tensors)
    beside = take_beside(config, left, base)
    linears = {}
    for name, tensor in sorted(left.items()):
        if not name.startswith(PREFIX) or not name.endswith(_SUFFIX):
            raise AdapterRefusedError(f"{TENSORS}: unknown tensor {name[:200]!r}")
        path = name[len(PREFIX) : -len(_SUFFIX)]
        if path not in base.linear_shapes:
            raise AdapterRefusedError(
                f"{TENSORS}: tensor {name[:200]!r}: the base has no linear {path[:160]!r} that an "
                "adapter may target"
            )
        linears[path] = _change(config, path, name, tensor, base)
    if not linears:
        raise AdapterRefusedError(f"{TENSORS}: holds no IA3 tensors")
    check_targets(config, linears.keys(), base.linear_shapes, base.head)
    return beside.weights(linears)


def _change(
    config: Mapping[str, Any], path: str, name: str, tensor: torch.Tensor, base: BaseInfo
) -> LinearChange:
    out_features, in_features = base.linear_shapes[path]
    is_feedforward = _is_feedforward(config, path)
    check_tensor(name, tensor, (1, in_features) if is_feedforward else (out_features, 1))
    check_fits(name, tensor, base.dtype)
    factors = tensor.flatten()
    if is_feedforward:
        return LinearChange(input_scale=factors)
    return LinearChange(output_scale=factors)


def _is_feedforward(config: Mapping[str, Any], path: str) -> bool:
    """Whether the factors are on the linear's input, as PEFT decides it."""
    names = name_list(config, "feedforward_modules")
    return any(path.endswith(name) for name in names)
