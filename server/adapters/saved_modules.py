"""Whole modules and biases that PEFT saves beside a method's own tensors.

`modules_to_save` trains copies of modules; `bias: all` and `bias: lora_only` train the base's
biases. Both stand in for the base's own.
"""

from collections.abc import Mapping, MutableMapping, Set
from typing import Any

import torch

from server.adapters.peft_format import CONFIG, PREFIX, TENSORS, check_fits, check_tensor, name_list
from server.adapters.weights import LinearChange, Replacement
from server.errors import AdapterRefusedError
from server.types import BaseInfo

# PEFT puts a targeted linear below a wrapper, and its bias with it.
_BIASES = (".base_layer.bias", ".bias")
_WEIGHT = ".weight"


def take_saved_linears(
    config: Mapping[str, Any], tensors: MutableMapping[str, torch.Tensor], base: BaseInfo
) -> dict[str, Replacement]:
    """Takes the linears that `modules_to_save` names out of `tensors`, by module path.

    Raises AdapterRefusedError for one that the base lacks, lacks a tensor or has the wrong shape.
    """
    found = {}
    for path in base.linear_shapes:
        name = PREFIX + path
        if name + _WEIGHT not in tensors:
            continue
        if not is_saved(config, path):
            raise AdapterRefusedError(
                f"{TENSORS}: tensor {name + _WEIGHT!r}: {CONFIG} does not name its module in "
                "modules_to_save"
            )
        shape = base.linear_shapes[path]
        weight = tensors.pop(name + _WEIGHT)
        if path in base.transposed_linears:
            check_tensor(name + _WEIGHT, weight, shape[::-1])
            weight = weight.t()
        else:
            check_tensor(name + _WEIGHT, weight, shape)
        check_fits(name + _WEIGHT, weight, base.dtype)
        bias = None
        if path in base.biased_linears:
            if name + ".bias" not in tensors:
                raise AdapterRefusedError(f"{TENSORS}: missing tensor {name + '.bias'!r}")
            bias = _bias(tensors.pop(name + ".bias"), path, base)
        found[path] = Replacement(weight, bias)
    return found


def take_biases(
    config: Mapping[str, Any], tensors: MutableMapping[str, torch.Tensor], base: BaseInfo
) -> dict[str, torch.Tensor]:
    """Takes the linears' biases that `bias` has trained out of `tensors`, by module path.

    Raises AdapterRefusedError for one that the base lacks, or of the wrong shape.
    """
    if config.get("bias", "none") == "none":
        return {}
    found: dict[str, torch.Tensor] = {}
    for path in base.linear_shapes:
        for suffix in _BIASES:
            bias = tensors.pop(PREFIX + path + suffix, None)
            if bias is None:
                continue
            if path not in base.biased_linears or path in found:
                raise AdapterRefusedError(
                    f"{TENSORS}: tensor {PREFIX + path + suffix!r}: the base's linear has no bias"
                )
            found[path] = _bias(bias, path, base)
    return found


def check_biases(
    config: Mapping[str, Any],
    adapted: Set[str],
    biases: Mapping[str, torch.Tensor],
    base: BaseInfo,
) -> None:
    """Raises AdapterRefusedError unless every bias that `bias` has trained is in `biases`: those of
    all linears, or of the `adapted` ones."""
    wanted = {"all": base.biased_linears, "lora_only": base.biased_linears & adapted}
    trained: Set[str] = wanted.get(config.get("bias", "none"), frozenset())
    missing = min(trained - biases.keys(), default=None)
    if missing is not None:
        raise AdapterRefusedError(
            f"{CONFIG}: bias {config['bias']!r}: {TENSORS} lacks the bias of {missing!r}"
        )


def check_saved_found(config: Mapping[str, Any], found: Set[str]) -> None:
    """Raises AdapterRefusedError if a name in `modules_to_save` has no module in `found`."""
    for name in saved_names(config):
        if not any(path.endswith(name) for path in found):
            raise AdapterRefusedError(
                f"{CONFIG}: modules_to_save: {TENSORS} holds no module {name[:80]!r} that an "
                "adapter may replace"
            )


def saved_names(config: Mapping[str, Any]) -> list[str]:
    """The names in `modules_to_save`. Raises AdapterRefusedError unless they are strings."""
    return name_list(config, "modules_to_save")


def is_saved(config: Mapping[str, Any], path: str) -> bool:
    """Whether `modules_to_save` names the module, as PEFT decides it."""
    return any(path.endswith(name) for name in saved_names(config))


def with_saved(
    linears: Mapping[str, LinearChange],
    replaced: Mapping[str, Replacement],
    biases: Mapping[str, torch.Tensor],
) -> dict[str, LinearChange]:
    """The changes of a method's own tensors with those of the saved ones.

    Raises AdapterRefusedError where one linear is replaced and changed.
    """
    both = next((path for path in replaced if path in linears or path in biases), None)
    if both is not None:
        raise AdapterRefusedError(
            f"{TENSORS}: {both!r} is in modules_to_save and changed besides; train only one"
        )
    result = dict(linears)
    for path, bias in biases.items():
        result[path] = _with_bias(result.get(path, LinearChange()), bias)
    for path, replacement in replaced.items():
        result[path] = LinearChange(replacement=replacement)
    return result


def _with_bias(change: LinearChange, bias: torch.Tensor) -> LinearChange:
    return LinearChange(
        low_rank=change.low_rank, magnitude=change.magnitude, shift=change.shift, bias=bias
    )


def _bias(bias: torch.Tensor, path: str, base: BaseInfo) -> torch.Tensor:
    name = f"{PREFIX}{path}.bias"
    check_tensor(name, bias, (base.linear_shapes[path][0],))
    check_fits(name, bias, base.dtype)
    return bias
