"""LoRA adapters (arXiv:2106.09685) in PEFT's format, rank-stabilised (arXiv:2312.03732) or not."""

import math
import re
import sys
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
from server.adapters.weights import AdapterWeights, LinearChange, LowRank
from server.errors import AdapterRefusedError
from server.types import BaseInfo

_PREFIX = "base_model.model."
_SUFFIXES = (".lora_A.weight", ".lora_B.weight")
_CONVERT = "convert it with peft.convert_to_lora"

_READ = frozenset(
    {
        "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules",
        "layers_to_transform", "exclude_modules", "init_lora_weights", "task_type",
    }
)  # fmt: skip
# Training only, or read only together with a key that must be off. fan_in_fan_out concerns
# merging; layers_pattern only says how layers_to_transform is matched, and the tensors tell.
_HARMLESS = frozenset(
    {
        "lora_dropout", "fan_in_fan_out", "layers_pattern", "runtime_config", "megatron_core",
        "qalora_group_size", "eva_config",
    }
)  # fmt: skip
_OFF: dict[str, tuple[object, str]] = {
    "use_dora": (False, _CONVERT),
    "bias": ("none", "train with bias 'none'"),
    "lora_bias": (False, "train with lora_bias off"),
    "modules_to_save": (None, "train without modules_to_save"),
    "trainable_token_indices": (None, "train without trainable tokens"),
    "target_parameters": (None, ""),
    "layer_replication": (None, ""),
    "alora_invocation_tokens": (None, ""),
    "use_qalora": (False, _CONVERT),
    "use_bdlora": (None, _CONVERT),
    "velora_config": (None, _CONVERT),
    "monteclora_config": (None, _CONVERT),
    "kasa_config": (None, ""),
    "arrow_config": (None, ""),
    "megatron_config": (None, ""),
    "loftq_config": ({}, ""),
    "corda_config": (None, ""),
    "lora_ga_config": (None, ""),
    "ensure_weight_tying": (False, ""),
}
# Initialisations that leave the base's weights alone. The others (PiSSA, OLoRA, ...) change them,
# so that the tensors only make sense on the changed base.
_PLAIN_INITS = (True, False, "gaussian", "orthogonal", "eva")

# With one of these set, target_modules names more than is adapted.
_NARROWING = ("layers_to_transform", "exclude_modules")

# Patterns come from elsewhere: without groups and with few repetitions no pattern can take long.
_SAFE_PATTERN = re.compile(r"[\w.\-^$|\\\[\]*+]{1,200}")
_MAX_REPETITIONS = 2


def read_lora(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], base: BaseInfo
) -> AdapterWeights:
    """Reads PEFT's `adapter_config.json` and tensors.

    Raises AdapterRefusedError naming the key or tensor for anything that this server would not
    reproduce: features it lacks, unknown keys, tensors that are missing, unknown, of the wrong
    shape or not finite.
    """
    check_keys(config, read=_READ, harmless=_HARMLESS, off=_OFF)
    check_task(config)
    if (init := config.get("init_lora_weights", True)) not in _PLAIN_INITS:
        raise AdapterRefusedError(
            f"{CONFIG}: init_lora_weights {init!r} changed the base's weights; save the adapter "
            "with PEFT's path_initial_model_for_weight_conversion"
        )
    pairs = _pairs(tensors, base)
    _check_complete(config, pairs, base)
    ranks, alphas = _patterns(config, "rank_pattern"), _patterns(config, "alpha_pattern")
    rank, alpha = whole_number(config, "r"), _positive(config.get("lora_alpha"), "lora_alpha")
    linears = {}
    for path, (a, b) in pairs.items():
        size = a.shape[0]
        wanted = _match(ranks, path, rank)
        if size != wanted:
            raise AdapterRefusedError(
                f"{TENSORS}: {path!r} has rank {size}, {CONFIG} says {wanted:g}"
            )
        divisor = math.sqrt(size) if config.get("use_rslora") else size
        scaling = _match(alphas, path, alpha) / divisor
        check_fits(path + _SUFFIXES[0], a, base.dtype)
        check_fits(path + _SUFFIXES[1], b, base.dtype, scaling)
        linears[path] = LinearChange(LowRank(a, b, scaling))
    return AdapterWeights(linears)


def _pairs(
    tensors: Mapping[str, torch.Tensor], base: BaseInfo
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """(A, B) of each module path, checked against the base's linear."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        suffix = next((s for s in _SUFFIXES if name.endswith(s)), None)
        if suffix is None or not name.startswith(_PREFIX):
            raise AdapterRefusedError(f"{TENSORS}: unknown tensor {name[:200]!r}")
        path = name[len(_PREFIX) : -len(suffix)]
        if path not in base.linear_shapes:
            raise AdapterRefusedError(
                f"{TENSORS}: tensor {name[:200]!r}: the base has no linear {path[:160]!r} that an "
                "adapter may target"
            )
        found.setdefault(path, {})[suffix] = tensor
    if not found:
        raise AdapterRefusedError(f"{TENSORS}: holds no LoRA tensors")
    pairs = {}
    for path, pair in sorted(found.items()):
        for suffix in _SUFFIXES:
            if suffix not in pair:
                raise AdapterRefusedError(f"{TENSORS}: missing tensor {_PREFIX + path + suffix!r}")
        a, b = (pair[suffix] for suffix in _SUFFIXES)
        out_features, in_features = base.linear_shapes[path]
        check_tensor(_PREFIX + path + _SUFFIXES[0], a, (None, in_features))
        check_tensor(_PREFIX + path + _SUFFIXES[1], b, (out_features, a.shape[0]))
        pairs[path] = (a, b)
    return pairs


def _check_complete(config: Mapping[str, Any], pairs: Mapping[str, Any], base: BaseInfo) -> None:
    """Every linear that the configuration targets by name must have its tensors."""
    targets = config.get("target_modules")
    narrowed = any(config.get(key) not in (None, []) for key in _NARROWING)
    if not isinstance(targets, list) or narrowed:
        return
    for target in targets:
        paths = [p for p in base.linear_shapes if p == target or p.endswith(f".{target}")]
        missing = next((path for path in paths if path not in pairs), None)
        if missing or not paths:
            raise AdapterRefusedError(
                f"{CONFIG}: target module {str(target)[:80]!r}: "
                + (f"{TENSORS} lacks {missing!r}" if missing else "the base has no such linear")
            )


def _patterns(config: Mapping[str, Any], key: str) -> dict[str, float]:
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict):
        raise AdapterRefusedError(f"{CONFIG}: {key} must be an object")
    for pattern, value in patterns.items():
        repetitions = sum(pattern.count(sign) for sign in "*+")
        if not _SAFE_PATTERN.fullmatch(pattern) or repetitions > _MAX_REPETITIONS:
            raise AdapterRefusedError(
                f"{CONFIG}: {key}: pattern {pattern[:80]!r} is not served; write module names"
            )
        try:
            re.compile(pattern)
        except re.error as error:
            raise AdapterRefusedError(
                f"{CONFIG}: {key}: pattern {pattern[:80]!r}: {error}"
            ) from error
        _positive(value, f"{key}[{pattern[:80]!r}]")
    return patterns


def _match(patterns: Mapping[str, float], path: str, default: float) -> float:
    """The value of the first pattern that matches the end of `path`, as PEFT chooses it."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default


def _positive(value: object, where: str) -> float:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else 0
    # A whole number may be larger than any float.
    if not 0 < number <= sys.float_info.max:
        raise AdapterRefusedError(f"{CONFIG}: {where} is not a number above 0")
    return number
