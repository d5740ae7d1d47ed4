"""LN tuning (arXiv:2312.11420) in PEFT's format: other weights of norms."""

from collections.abc import Mapping
from typing import Any

import torch

from server.adapters.beside import take_beside
from server.adapters.norms import take_norm
from server.adapters.peft_format import PREFIX, TENSORS, check_keys, check_task
from server.adapters.targets import check_targets
from server.adapters.weights import AdapterWeights
from server.errors import AdapterRefusedError
from server.types import BaseInfo

_INFIX = ".ln_tuning_layers"
_READ = frozenset({"target_modules", "exclude_modules", "modules_to_save", "task_type"})


def read_ln_tuning(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], base: BaseInfo
) -> AdapterWeights:
    """Reads PEFT's `adapter_config.json` and tensors.

    Raises AdapterRefusedError naming the key or tensor at fault.
    """
    check_keys(config, read=_READ, harmless=frozenset(), off={})
    check_task(config)
    left = dict(tensors)
    tuned = {
        path: take_norm(left, path, _INFIX, base)
        for path in base.norms
        if f"{PREFIX}{path}{_INFIX}.weight" in left
    }
    beside = take_beside(config, left, base)
    unknown = next(iter(left), None)
    if unknown is not None:
        raise AdapterRefusedError(
            f"{TENSORS}: unknown tensor {unknown[:200]!r}; LN tuning is served of norms, other "
            "modules through modules_to_save"
        )
    if not tuned:
        raise AdapterRefusedError(f"{TENSORS}: holds no tensors of LN tuning")
    check_targets(config, tuned.keys(), base.norms)
    return beside.weights({}, norms=tuned)
