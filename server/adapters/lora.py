"""LoRA adapters (arXiv:2106.09685) in PEFT's format: rank-stabilised (arXiv:2312.03732) or not,
DoRA (arXiv:2402.09353), with biases."""

import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from server.adapters.beside import take_beside
from server.adapters.lora_embedding import check_tied_updates, take_embedding_update
from server.adapters.peft_format import (
    CONFIG,
    PREFIX,
    TENSORS,
    check_fits,
    check_keys,
    check_task,
    check_tensor,
    whole_number,
)
from server.adapters.saved_modules import check_biases, take_biases
from server.adapters.targets import check_targets
from server.adapters.trained_tokens import TrainedTokens
from server.adapters.weights import AdapterWeights, EmbeddingChange, LinearChange, LowRank
from server.errors import AdapterRefusedError
from server.types import BaseInfo
from understudy.artifact import shorten

_A, _B = ".lora_A.weight", ".lora_B.weight"
_B_BIAS = ".lora_B.bias"
_MAGNITUDE = ".lora_magnitude_vector"
_MARK = ".lora_"
# By what comes behind the mark. Older versions of PEFT wrote the last form.
_SUFFIXES = {suffix.removeprefix(_MARK): suffix for suffix in (_A, _B, _B_BIAS, _MAGNITUDE)} | {
    "magnitude_vector.weight": _MAGNITUDE
}
_TOKENS = "trainable_token_indices"
# PEFT's own name for no modules: such an adapter is what it saves beside, as a classifier's head.
_NO_MODULES = "dummy-target-modules"
_CONVERT = "convert it with peft.convert_to_lora"

_READ = frozenset(
    {
        "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules",
        "layers_to_transform", "layers_pattern", "exclude_modules", "init_lora_weights",
        "task_type", "use_dora", "bias", "lora_bias", "modules_to_save", _TOKENS,
        "ensure_weight_tying",
    }
)  # fmt: skip
# Training only, or read only together with a key that must be off. fan_in_fan_out concerns
# merging.
_HARMLESS = frozenset(
    {
        "lora_dropout", "fan_in_fan_out", "runtime_config", "megatron_core", "qalora_group_size",
        "eva_config",
    }
)  # fmt: skip
_OFF: dict[str, tuple[object, str]] = {
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
}
# Initialisations that leave the base's weights alone. The others (PiSSA, OLoRA, ...) change them,
# so that the tensors only make sense on the changed base.
_PLAIN_INITS = (True, False, "gaussian", "orthogonal", "eva")

_BIASES = ("none", "all", "lora_only")

# Patterns come from elsewhere: without groups and with few repetitions no pattern can take long.
_SAFE_PATTERN = re.compile(r"[\w.\-^$|\\\[\]*+]{1,200}")
_MAX_REPETITIONS = 2
_Patterns = Sequence[tuple[re.Pattern[str], float]]


def read_lora(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], base: BaseInfo
) -> AdapterWeights:
    """Reads PEFT's `adapter_config.json` and tensors.

    Raises AdapterRefusedError naming the key or tensor for anything that this server would not
    reproduce: features it lacks, unknown keys, tensors that are missing, unknown or of the wrong
    shape.
    """
    check_keys(config, read=_READ, harmless=_HARMLESS, off=_OFF)
    check_task(config)
    if (init := config.get("init_lora_weights", True)) not in _PLAIN_INITS:
        raise AdapterRefusedError(
            f"{CONFIG}: init_lora_weights {shorten(init)} changed the base's weights; save the "
            "adapter with PEFT's path_initial_model_for_weight_conversion"
        )
    _check_switches(config)
    left = dict(tensors)
    trained = TrainedTokens(_TOKENS, config.get(_TOKENS), ".token_adapter.trainable_tokens_delta")
    beside = take_beside(config, left, base, trained)
    biases = take_biases(config, left, base)
    embedding = take_embedding_update(config, left, base)
    found = _by_module(left, base)
    if not found and embedding is None and config.get("target_modules") != _NO_MODULES:
        raise AdapterRefusedError(f"{TENSORS}: holds no LoRA tensors")
    targeted = found.keys() | ({embedding.path} if embedding is not None else set())
    check_targets(config, targeted, _targets(base), base.head, _tied_paths(config, base))
    check_biases(config, found.keys(), biases, base)
    num_modules = len(_targets(base))
    ranks = _patterns(config, "rank_pattern", num_modules)
    alphas = _patterns(config, "alpha_pattern", num_modules)
    rank, alpha = whole_number(config, "r"), _positive(config.get("lora_alpha"), "lora_alpha")
    is_tied = embedding is not None and bool(config.get("ensure_weight_tying")) and base.tied

    def scaling(path: str, a: torch.Tensor) -> float:
        wanted = _match(ranks, path, rank)
        # A head that is tied has the embeddings' tensors, and its own rank in the scaling.
        if len(a) != wanted and not (path == base.head and is_tied):
            raise AdapterRefusedError(
                f"{TENSORS}: {path!r} has rank {len(a)}, {CONFIG} says {wanted:g}"
            )
        divisor = math.sqrt(wanted) if config.get("use_rslora") else wanted
        return _match(alphas, path, alpha) / divisor

    linears = {
        path: _change(config, path, module, scaling(path, module[_A]), base)
        for path, module in found.items()
    }
    change = None
    if embedding is not None:
        update = LowRank(embedding.a, embedding.b, scaling(embedding.path, embedding.a))
        check_fits(embedding.path, update.a, base.dtype)
        check_fits(embedding.path, update.b, base.dtype, update.scaling)
        change = EmbeddingChange(update, embedding.magnitude)
    check_tied_updates(config, change, linears.get(base.head), base)
    return beside.weights(linears, biases=biases, embedding=change)


def _targets(base: BaseInfo) -> list[str]:
    """The module paths that LoRA may target."""
    embedding = [base.embedding.path] if base.embedding is not None else []
    return [*base.linear_shapes, *embedding]


def _tied_paths(config: Mapping[str, Any], base: BaseInfo) -> frozenset[str]:
    """Embeddings and head, where what targets one of them changes the other along with it."""
    if base.embedding is None or not (config.get("ensure_weight_tying") and base.tied):
        return frozenset()
    return frozenset((base.embedding.path, base.head))


def _check_switches(config: Mapping[str, Any]) -> None:
    for key in ("use_dora", "lora_bias", "use_rslora", "ensure_weight_tying"):
        if not isinstance(config.get(key, False), bool | None):
            raise AdapterRefusedError(
                f"{CONFIG}: {key} {shorten(config[key])} is not true or false"
            )
    if config.get("bias", "none") not in _BIASES:
        raise AdapterRefusedError(
            f"{CONFIG}: bias {shorten(config['bias'])} is not one of {', '.join(_BIASES)}"
        )


def _change(
    config: Mapping[str, Any],
    path: str,
    module: Mapping[str, torch.Tensor],
    scaling: float,
    base: BaseInfo,
) -> LinearChange:
    """What the tensors of one linear change in it."""
    out_features = base.linear_shapes[path][0]
    a, b = module[_A], module[_B]
    check_fits(path + _A, a, base.dtype)
    check_fits(path + _B, b, base.dtype, scaling)
    optional: dict[str, torch.Tensor | None] = {}
    for key, suffix in (("use_dora", _MAGNITUDE), ("lora_bias", _B_BIAS)):
        tensor = module.get(suffix)
        if bool(config.get(key)) != (tensor is not None):
            state = "missing" if tensor is None else "unknown"
            raise AdapterRefusedError(
                f"{TENSORS}: {state} tensor {PREFIX + path + suffix!r}: {CONFIG} says {key} "
                f"{config.get(key, False)!r}"
            )
        if tensor is not None:
            check_tensor(PREFIX + path + suffix, tensor, (out_features,))
            check_fits(path + suffix, tensor, base.dtype)
        optional[suffix] = tensor
    bias = optional[_B_BIAS]
    return LinearChange(
        low_rank=LowRank(a, b, scaling),
        magnitude=optional[_MAGNITUDE],
        shift=None if bias is None else bias.float() * scaling,
    )


def _by_module(
    tensors: Mapping[str, torch.Tensor], base: BaseInfo
) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of each module path by suffix, A and B checked against the base's linear."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        module_name, _, end = name.rpartition(_MARK)
        suffix = _SUFFIXES.get(end)
        if suffix is None or not module_name.startswith(PREFIX):
            raise AdapterRefusedError(f"{TENSORS}: unknown tensor {name[:200]!r}")
        path = module_name[len(PREFIX) :]
        if path not in base.linear_shapes:
            raise AdapterRefusedError(
                f"{TENSORS}: tensor {name[:200]!r}: the base has no linear {path[:160]!r} that an "
                "adapter may target"
            )
        found.setdefault(path, {})[suffix] = tensor
    for path, module in found.items():
        for suffix in (_A, _B):
            if suffix not in module:
                raise AdapterRefusedError(f"{TENSORS}: missing tensor {PREFIX + path + suffix!r}")
        out_features, in_features = base.linear_shapes[path]
        check_tensor(PREFIX + path + _A, module[_A], (None, in_features))
        check_tensor(PREFIX + path + _B, module[_B], (out_features, module[_A].shape[0]))
    return dict(sorted(found.items()))


def _patterns(config: Mapping[str, Any], key: str, max_count: int) -> _Patterns:
    """The patterns in `key` with their values, compiled once: each meets every module."""
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict):
        raise AdapterRefusedError(f"{CONFIG}: {key} must be an object")
    if len(patterns) > max_count:
        raise AdapterRefusedError(
            f"{CONFIG}: {key} has {len(patterns)} patterns, the base {max_count} modules"
        )
    found = []
    for pattern, value in patterns.items():
        repetitions = sum(pattern.count(sign) for sign in "*+")
        if not _SAFE_PATTERN.fullmatch(pattern) or repetitions > _MAX_REPETITIONS:
            raise AdapterRefusedError(
                f"{CONFIG}: {key}: pattern {pattern[:80]!r} is not served; write module names"
            )
        try:
            compiled = re.compile(rf"(.*\.)?({pattern})$")
        except re.error as error:
            raise AdapterRefusedError(
                f"{CONFIG}: {key}: pattern {pattern[:80]!r}: {error}"
            ) from error
        found.append((compiled, _positive(value, f"{key}[{pattern[:80]!r}]")))
    return found


def _match(patterns: _Patterns, path: str, default: float) -> float:
    """The value of the first pattern that matches the end of `path`, as PEFT chooses it."""
    for pattern, value in patterns:
        if pattern.match(path):
            return value
    return default


def _positive(value: object, where: str) -> float:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else 0
    # A whole number may be larger than any float.
    if not 0 < number <= sys.float_info.max:
        raise AdapterRefusedError(f"{CONFIG}: {where} is not a number above 0")
    return number
