"""Checks that the readers of PEFT's methods share: every key and every tensor is accounted for."""

import math
from collections.abc import Mapping, Set
from functools import cache
from typing import Any

import torch

from server.errors import AdapterRefusedError
from understudy.artifact import shorten

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT puts in front of the base's module paths."""

# Where an adapter came from; nothing here changes a number.
ORIGIN_KEYS = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "inference_mode",
        "peft_type",
        "peft_version",
        "revision",
    }
)

_MAX_NUMBER = 2**31 - 1
# Each is compared with every module of the base.
_MAX_NAMES = 1000


def check_keys(
    config: Mapping[str, Any],
    *,
    read: Set[str],
    harmless: Set[str],
    off: Mapping[str, tuple[object, str]],
) -> None:
    """Raises AdapterRefusedError for a key that would change the mathematics unseen.

    `read` are used by the caller, `harmless` change no number, `off` maps a feature's key to the
    value that switches it off and a remedy (or empty). null and empty also switch it off.
    """
    for key, value in config.items():
        if key in read or key in harmless or key in ORIGIN_KEYS:
            continue
        if key not in off:
            raise AdapterRefusedError(
                f"{CONFIG}: key {shorten(key)} is unknown to this server, and may change the "
                "results"
            )
        default, remedy = off[key]
        if value in (None, [], {}) or (value == default and type(value) is type(default)):
            continue
        hint = f"; {remedy}" if remedy else ""
        raise AdapterRefusedError(f"{CONFIG}: {key} {shorten(value)} is not served{hint}")


def check_task(config: Mapping[str, Any]) -> None:
    """Raises AdapterRefusedError unless the adapter is for causal language modelling."""
    task = config.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        raise AdapterRefusedError(
            f"{CONFIG}: task_type {shorten(task)} is not served; CAUSAL_LM and SEQ_CLS are"
        )


def check_tensor(name: str, tensor: torch.Tensor, shape: tuple[int | None, ...]) -> None:
    """Raises AdapterRefusedError unless `tensor` is floating, of `shape` (None: any size from 1).

    That what a file holds is finite was checked when it was read.
    """
    found = tuple(tensor.shape)
    if (found != shape or 0 in found) and not _fits(found, shape):
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise AdapterRefusedError(
            f"{TENSORS}: tensor {name!r} has shape {list(found)}, the base needs [{wanted}]"
        )
    if not tensor.dtype.is_floating_point or tensor.dtype.itemsize < 2:
        raise AdapterRefusedError(f"{TENSORS}: tensor {name!r} has dtype {tensor.dtype}")


def check_finite(name: str, tensor: torch.Tensor) -> None:
    """Raises AdapterRefusedError unless all of `tensor`, which is floating, is finite."""
    if not is_finite(tensor):
        raise AdapterRefusedError(f"{TENSORS}: tensor {shorten(name, 200)} holds NaN or infinity")


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all of `tensor`, which is floating and not empty, is finite."""
    # Both ends at once, and NaN spreads to them: a tenth of what isfinite costs.
    return all(math.isfinite(end) for end in torch.aminmax(tensor))


def _fits(found: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    if len(found) != len(shape):
        return False
    for size, want in zip(found, shape, strict=True):
        if not size or want not in (None, size):
            return False
    return True


def check_fits(name: str, tensor: torch.Tensor, dtype: str, factor: float = 1.0) -> None:
    """Raises AdapterRefusedError if a finite `tensor`, times `factor`, overflows in the base's
    `dtype`."""
    limit = _largest(getattr(torch, dtype))
    if _largest(tensor.dtype) * abs(factor) <= limit:
        # No finite number of its type is too large.
        return
    if not max(abs(float(end)) for end in torch.aminmax(tensor)) * abs(factor) <= limit:
        raise AdapterRefusedError(f"{TENSORS}: tensor {name!r} overflows in {dtype}")


@cache
def _largest(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).max


def name_list(config: Mapping[str, Any], key: str) -> list[str]:
    """The names in `key`, each once. Raises AdapterRefusedError unless it is a list of them."""
    names = config.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise AdapterRefusedError(f"{CONFIG}: {key} must be a list of names")
    found = list(dict.fromkeys(names))
    if len(found) > _MAX_NAMES:
        raise AdapterRefusedError(
            f"{CONFIG}: {key} has {len(found)} names, at most {_MAX_NAMES} are served"
        )
    return found


def whole_number(config: Mapping[str, Any], key: str) -> int:
    """The value of `key`, a whole number from 1. Raises AdapterRefusedError."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MAX_NUMBER:
        raise AdapterRefusedError(
            f"{CONFIG}: {key} {shorten(value)} is not a whole number from 1 to {_MAX_NUMBER}"
        )
    return value
