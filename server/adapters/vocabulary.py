"""What adapters make of tokens: input embeddings and output head, whole, by row or by LoRA.

The two may be one weight in the base (tied). PEFT changes the one that an adapter names, and the
other along with it only where tokens are trained, or `ensure_weight_tying` is set.
"""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from server.adapters.peft_format import (
    CONFIG,
    PREFIX,
    TENSORS,
    check_fits,
    check_tensor,
)
from server.adapters.saved_modules import is_saved
from server.adapters.trained_tokens import TrainedTokens, take_rows
from server.adapters.weights import (
    EmbeddingChange,
    LinearChange,
    LowRank,
    ReplacedRows,
    Replacement,
)
from server.errors import AdapterRefusedError
from server.types import BaseInfo

# PEFT ties what an adapter changes only if it is called by one of these names.
_TIED_NAMES = ("embed_tokens", "lm_head")


@dataclass(frozen=True)
class Vocabulary:
    """Other weights of embeddings and head: whole, and by row."""

    embedding: torch.Tensor | None = None
    embedding_rows: ReplacedRows | None = None
    head: torch.Tensor | None = None
    head_rows: ReplacedRows | None = None
    saved: frozenset[str] = frozenset()
    """Module paths that `modules_to_save` names."""

    def embedding_change(self, own: EmbeddingChange | None = None) -> EmbeddingChange | None:
        """The embeddings' change with `own`, the method's update of them."""
        if own is None and self.embedding is None and self.embedding_rows is None:
            return None
        own = own or EmbeddingChange()
        return replace(own, replacement=self.embedding, rows=self.embedding_rows)

    def head_change(self, own: LinearChange | None) -> LinearChange | None:
        """The head's change with `own`, the method's update of it.

        Raises AdapterRefusedError where `own` is more than low-rank beside other weights.
        """
        if self.head is None and self.head_rows is None:
            return own
        if own is not None and any(
            getattr(own, field.name) is not None
            for field in fields(own)
            if field.name != "low_rank"
        ):
            raise AdapterRefusedError(
                f"{TENSORS}: the output head has other weights and more than a LoRA update; train "
                "only one"
            )
        update = None if own is None else own.low_rank
        rows = self.head_rows
        if self.head is None:
            assert rows is not None
            if update is not None:
                part = replace(update, b=update.b[rows.token_ids])
                rows = replace(rows, weight=_merged(rows.weight, part))
            return LinearChange(low_rank=update, rows=rows)
        weight = self.head
        if rows is not None:
            weight = weight.index_copy(0, rows.token_ids, rows.weight.to(weight.dtype))
        if update is not None:
            weight = _merged(weight, update)
        return LinearChange(replacement=Replacement(weight, None))


def take_vocabulary(
    config: Mapping[str, Any],
    tensors: MutableMapping[str, torch.Tensor],
    base: BaseInfo,
    trained: TrainedTokens | None = None,
) -> Vocabulary:
    """Takes other weights of embeddings and head out of `tensors`.

    Raises AdapterRefusedError naming the key or tensor at fault.
    """
    embedding, head = _base_copies(config, tensors, base)
    path = base.embedding.path if base.embedding is not None else ""
    saved = set()
    if path and is_saved(config, path) and PREFIX + path + ".weight" in tensors:
        embedding = _take(tensors, path, ".weight", base)
        saved.add(path)
        if ties_weights(config, base):
            head = _take(tensors, base.head, ".weight", base)
            if not torch.equal(head, embedding):
                raise AdapterRefusedError(
                    f"{TENSORS}: {path!r} and {base.head!r} differ, {CONFIG} ties them"
                )
            saved.add(base.head)
    rows = {} if trained is None else take_rows(trained, tensors, base)
    if saved & rows.keys():
        raise AdapterRefusedError(
            f"{CONFIG}: {min(saved & rows.keys())!r} is in modules_to_save, and some of its tokens "
            "are trained besides; train only one"
        )
    if (head is not None or base.head in rows) and base.head in base.biased_linears:
        raise AdapterRefusedError(
            f"{TENSORS}: the base's output head has a bias; other weights of it are served only "
            "through modules_to_save"
        )
    return Vocabulary(embedding, rows.get(path), head, rows.get(base.head), frozenset(saved))


def ties_weights(config: Mapping[str, Any], base: BaseInfo) -> bool:
    """Whether what is saved of the embeddings stands in for the head's weight too."""
    assert base.embedding is not None
    known = base.embedding.path.rpartition(".")[2] in _TIED_NAMES
    return bool(config.get("ensure_weight_tying")) and base.tied and known


def _base_copies(
    config: Mapping[str, Any], tensors: MutableMapping[str, torch.Tensor], base: BaseInfo
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Takes the base's own weights that PEFT saves beside an update of them (or where
    `save_embedding_layers` is set) out of `tensors`: of embeddings and head, where they differ
    from this base's."""
    if base.embedding is None:
        return None, None
    found: dict[str, torch.Tensor] = {}
    has_copies = False
    for path in dict.fromkeys((base.embedding.path, base.head)):
        for suffix in (".base_layer.weight", ".weight"):
            is_other = suffix == ".weight" and (
                is_saved(config, path) or (path == base.head and ties_weights(config, base))
            )
            if not path or is_other or PREFIX + path + suffix not in tensors:
                continue
            weight = _take(tensors, path, suffix, base)
            has_copies = True
            if not base.is_own_weight(path, weight):
                found[path] = weight
    if has_copies:
        # All tensors may be views of one piece of memory, which the copies would keep.
        for name, tensor in tensors.items():
            tensors[name] = _copy(tensor)
        found = {path: _copy(weight) for path, weight in found.items()}
    embedding, head = found.get(base.embedding.path), found.get(base.head)
    if not base.tied:
        return embedding, head
    if embedding is not None and head is not None and not torch.equal(embedding, head):
        raise AdapterRefusedError(
            f"{TENSORS}: {base.embedding.path!r} and {base.head!r} differ, the base ties them"
        )
    both = embedding if embedding is not None else head
    return both, both


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone().pin_memory() if tensor.is_pinned() else tensor.clone()


def _take(
    tensors: MutableMapping[str, torch.Tensor], path: str, suffix: str, base: BaseInfo
) -> torch.Tensor:
    name = PREFIX + path + suffix
    if name not in tensors:
        raise AdapterRefusedError(f"{TENSORS}: missing tensor {name!r}")
    weight = tensors.pop(name)
    assert base.embedding is not None
    shape = base.embedding.shape if path == base.embedding.path else base.linear_shapes[path]
    check_tensor(name, weight, shape)
    check_fits(name, weight, base.dtype)
    return weight


def _merged(weight: torch.Tensor, update: LowRank) -> torch.Tensor:
    return torch.addmm(weight.float(), update.b.float(), update.a.float(), alpha=update.scaling)
