"""Norms that PEFT saves: whole, or their biases."""

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch

from server.adapters.peft_format import PREFIX, TENSORS, check_fits, check_tensor
from server.adapters.saved_modules import is_saved
from server.adapters.weights import NormChange
from server.errors import AdapterRefusedError
from server.types import BaseInfo


def take_norms(
    config: Mapping[str, Any], tensors: MutableMapping[str, torch.Tensor], base: BaseInfo
) -> dict[str, NormChange]:
    """Takes the norms that `modules_to_save` names, and the biases that `bias: all` has trained,
    out of `tensors`, by module path.

    Raises AdapterRefusedError for tensors that are missing, or of the wrong shape.
    """
    found = {}
    for path, info in base.norms.items():
        if is_saved(config, path):
            found[path] = take_norm(tensors, path, "", base)
        elif config.get("bias") == "all" and info.has_bias:
            found[path] = NormChange(bias=_take(tensors, f"{PREFIX}{path}.bias", path, base))
    return found


def take_norm(
    tensors: MutableMapping[str, torch.Tensor], path: str, infix: str, base: BaseInfo
) -> NormChange:
    """Takes one norm out of `tensors`, whose names have `infix` behind its module path. Raises as
    `take_norms`."""
    name = PREFIX + path + infix
    weight = _take(tensors, f"{name}.weight", path, base)
    bias = _take(tensors, f"{name}.bias", path, base) if base.norms[path].has_bias else None
    return NormChange(weight, bias)


def _take(
    tensors: MutableMapping[str, torch.Tensor], name: str, path: str, base: BaseInfo
) -> torch.Tensor:
    if name not in tensors:
        raise AdapterRefusedError(f"{TENSORS}: missing tensor {name!r}")
    tensor = tensors.pop(name)
    check_tensor(name, tensor, (base.norms[path].size,))
    check_fits(name, tensor, base.dtype)
    return tensor
