"""Trained rows of the embeddings: PEFT's method TRAINABLE_TOKENS."""

from collections.abc import Mapping
from typing import Any

import torch

from server.adapters.beside import take_beside
from server.adapters.peft_format import CONFIG, PREFIX, TENSORS, check_keys, check_task
from server.adapters.trained_tokens import TrainedTokens
from server.adapters.weights import AdapterWeights
from server.errors import AdapterRefusedError
from server.types import BaseInfo

_SUFFIX = ".trainable_tokens_delta"


def read_trainable_tokens(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], base: BaseInfo
) -> AdapterWeights:
    """Reads PEFT's `adapter_config.json` and tensors of trained tokens.

    Raises AdapterRefusedError naming the key or tensor at fault.
    """
    read = frozenset({"token_indices", "target_modules", "task_type"})
    check_keys(config, read=read, harmless=frozenset({"init_weights"}), off={})
    check_task(config)
    left = dict(tensors)
    path = base.embedding.path if base.embedding is not None else ""
    trained = [p for p in (path, base.head) if p and PREFIX + p + _SUFFIX in left]
    targets = config.get("target_modules")
    for target in targets if isinstance(targets, list) else [targets]:
        if isinstance(target, str) and not any(f".{p}".endswith(f".{target}") for p in trained):
            raise AdapterRefusedError(
                f"{CONFIG}: target module {target[:80]!r}: {TENSORS} lacks its tokens; those of "
                f"{path!r} and {base.head!r} are served"
            )
    if not trained:
        raise AdapterRefusedError(f"{TENSORS}: holds no trained tokens")
    token_ids = {p: config.get("token_indices") for p in trained}
    tokens = TrainedTokens("token_indices", token_ids, _SUFFIX)
    beside = take_beside(config, left, base, tokens)
    unknown = next(iter(left), None)
    if unknown is not None:
        raise AdapterRefusedError(f"{TENSORS}: unknown tensor {unknown[:200]!r}")
    return beside.weights({})
