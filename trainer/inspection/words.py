"""The vocabulary's words around an adapter's vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

TOKENS = "trainable_tokens_delta"
"""What PEFT calls the embeddings of trained tokens."""


@dataclass(frozen=True)
class Word:
    """A vocabulary word near a vector."""

    id: int
    text: str
    cosine: float
    distance: float


@dataclass(frozen=True)
class VirtualToken:
    """One virtual token and the words around it."""

    index: int
    norm: float
    by_cosine: tuple[Word, ...]
    """Nearest first; empty where its vector is no embedding (prefix tuning)."""
    by_distance: tuple[Word, ...]


@dataclass(frozen=True)
class TrainedToken:
    """A token of the vocabulary whose embedding the adapter replaces."""

    module: str
    id: int
    text: str
    moved: float
    """Distance from the base's embedding, over that one's norm."""


def virtual_tokens(
    prompt: Tensor, words: Tensor | None, tokenizer: Any, top: int
) -> tuple[VirtualToken, ...]:
    """Virtual tokens [N, H] among the vocabulary's words [V, H]."""
    if words is None:
        return tuple(VirtualToken(i, float(row.norm()), (), ()) for i, row in enumerate(prompt))
    cosines = functional.normalize(prompt, dim=1) @ functional.normalize(words, dim=1).T
    distances = torch.cdist(prompt, words)

    def around(row: int, order: Sequence[int]) -> tuple[Word, ...]:
        return tuple(
            Word(i, tokenizer.decode([i]), float(cosines[row, i]), float(distances[row, i]))
            for i in order
        )

    top = min(top, len(words))
    return tuple(
        VirtualToken(
            i,
            float(row.norm()),
            around(i, cosines[i].topk(top).indices.tolist()),
            around(i, distances[i].topk(top, largest=False).indices.tolist()),
        )
        for i, row in enumerate(prompt)
    )


def trained_tokens(
    groups: Mapping[str, Mapping[str, Tensor]],
    config: Mapping[str, Any],
    words: Tensor | None,
    tokenizer: Any,
) -> list[TrainedToken]:
    """The tokens whose embeddings stand in `groups` (module -> tensors), beside the base's words
    [V, H]."""
    found = []
    for module, parts in groups.items():
        rows = next((tensor for part, tensor in parts.items() if part.endswith(TOKENS)), None)
        if rows is None or words is None:
            continue
        indices = config.get("token_indices") or config.get("trainable_token_indices")
        if isinstance(indices, dict):
            indices = next((i for n, i in indices.items() if module.split(".")[-1] == n), [])
        for index, row in zip(indices or [], rows, strict=False):
            original = words[index]
            moved = float((row - original).norm() / original.norm().clamp_min(1e-30))
            found.append(TrainedToken(module, index, tokenizer.decode([index]), moved))
    return found
