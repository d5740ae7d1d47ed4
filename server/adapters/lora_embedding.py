"""LoRA of the input embeddings in PEFT's format, DoRA too."""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch

from server.adapters.peft_format import CONFIG, PREFIX, TENSORS, check_fits, check_tensor
from server.adapters.vocabulary import ties_weights
from server.adapters.weights import EmbeddingChange, LinearChange
from server.errors import AdapterRefusedError
from server.types import BaseInfo

_A, _B = ".lora_embedding_A", ".lora_embedding_B"
_MAGNITUDES = (".lora_magnitude_vector", ".lora_magnitude_vector.weight")


@dataclass(frozen=True)
class EmbeddingUpdate:
    """LoRA tensors of the embeddings at `path`: A [r, vocabulary], B [hidden, r], and DoRA's
    magnitude [hidden]."""

    path: str
    a: torch.Tensor
    b: torch.Tensor
    magnitude: torch.Tensor | None


def take_embedding_update(
    config: Mapping[str, Any],
    tensors: MutableMapping[str, torch.Tensor],
    base: BaseInfo,
) -> EmbeddingUpdate | None:
    """Takes LoRA of the embeddings out of `tensors`, if it is there.

    Raises AdapterRefusedError for tensors that are missing, or of the wrong shape.
    """
    if base.embedding is None:
        return None
    name = PREFIX + base.embedding.path
    if name + _A not in tensors and name + _B not in tensors:
        return None
    for suffix in (_A, _B):
        if name + suffix not in tensors:
            raise AdapterRefusedError(f"{TENSORS}: missing tensor {name + suffix!r}")
    num_rows, size = base.embedding.shape
    a, b = tensors.pop(name + _A), tensors.pop(name + _B)
    check_tensor(name + _A, a, (None, num_rows))
    check_tensor(name + _B, b, (size, a.shape[0]))
    found = [tensors.pop(name + s) for s in _MAGNITUDES if name + s in tensors]
    if bool(config.get("use_dora")) != bool(found):
        state = "unknown" if found else "missing"
        raise AdapterRefusedError(
            f"{TENSORS}: {state} tensor {name + _MAGNITUDES[0]!r}: {CONFIG} says use_dora "
            f"{config.get('use_dora', False)!r}"
        )
    for magnitude in found:
        check_tensor(name + _MAGNITUDES[0], magnitude, (size,))
        check_fits(name + _MAGNITUDES[0], magnitude, base.dtype)
    return EmbeddingUpdate(base.embedding.path, a, b, found[0] if found else None)


def check_tied_updates(
    config: Mapping[str, Any],
    embedding: EmbeddingChange | None,
    head: LinearChange | None,
    base: BaseInfo,
) -> None:
    """Raises AdapterRefusedError unless embeddings and head have one update, where
    `ensure_weight_tying` asks for it."""
    if not config.get("ensure_weight_tying") or not base.tied:
        return
    ours = None if embedding is None else embedding.low_rank
    theirs = None if head is None else head.low_rank
    if ours is None and theirs is None:
        return
    if (
        ours is None
        or theirs is None
        or not ties_weights(config, base)
        or not torch.equal(theirs.a, ours.b.t())
        or not torch.equal(theirs.b, ours.a.t())
    ):
        raise AdapterRefusedError(
            f"{CONFIG}: ensure_weight_tying: {TENSORS} does not hold one update for both the "
            "embeddings and the output head"
        )
