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
from server.adapters.weights import (
    EmbeddingChange,
    LinearChange,
    LowRank,
    ReplacedRows,
    Replacement,
)
from server.errors import AdapterRefusedError
from server.types import BaseInfo

_A, _B = ".lora_embedding_A", ".lora_embedding_B"
_MAGNITUDES = (".lora_magnitude_vector", ".lora_magnitude_vector.weight")
# PEFT ties what an adapter changes only if it is called by one of these names.
_TIED_NAMES = ("embed_tokens", "lm_head")


@dataclass(frozen=True)
class TrainedTokens:
    """Where an artifact has its trained tokens: the `key` of the configuration with their
    `token_ids`, a list or an object of lists by module, and what their tensors are called behind
    the module's path."""

    key: str
    token_ids: object
    suffix: str


@dataclass(frozen=True)
class EmbeddingUpdate:
    """LoRA tensors of the embeddings at `path`: A [r, vocabulary], B [hidden, r], and DoRA's
    magnitude [hidden]."""

    path: str
    a: torch.Tensor
    b: torch.Tensor
    magnitude: torch.Tensor | None


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
        if _ties(config, base):
            head = _take(tensors, base.head, ".weight", base)
            if not torch.equal(head, embedding):
                raise AdapterRefusedError(
                    f"{TENSORS}: {path!r} and {base.head!r} differ, {CONFIG} ties them"
                )
            saved.add(base.head)
    rows = {} if trained is None else _take_rows(trained, tensors, base)
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
        or not _ties(config, base)
        or not torch.equal(theirs.a, ours.b.t())
        or not torch.equal(theirs.b, ours.a.t())
    ):
        raise AdapterRefusedError(
            f"{CONFIG}: ensure_weight_tying: {TENSORS} does not hold one update for both the "
            "embeddings and the output head"
        )


def _ties(config: Mapping[str, Any], base: BaseInfo) -> bool:
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
                is_saved(config, path) or (path == base.head and _ties(config, base))
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
    if weight.dim() == 2 and weight.shape[0] > shape[0] and weight.shape[1] == shape[1]:
        raise AdapterRefusedError(
            f"{TENSORS}: tensor {name!r} has {weight.shape[0]} rows, the base {shape[0]}: added "
            "vocabulary is not served; train tokens that the base has (trainable_token_indices)"
        )
    check_tensor(name, weight, shape)
    check_fits(name, weight, base.dtype)
    return weight


def _take_rows(
    trained: TrainedTokens, tensors: MutableMapping[str, torch.Tensor], base: BaseInfo
) -> dict[str, ReplacedRows]:
    """The trained tokens of embeddings and head, by module path."""
    found: dict[str, ReplacedRows] = {}
    named = _named_tokens(trained, base)
    if not named:
        return found
    assert base.embedding is not None
    path, head = base.embedding.path, base.head
    for module, token_ids in named.items():
        name = PREFIX + module + trained.suffix
        if base.tied and module == head and named.get(path) == token_ids and name not in tensors:
            continue
        if name not in tensors:
            raise AdapterRefusedError(f"{TENSORS}: missing tensor {name!r}")
        weight = tensors.pop(name)
        check_tensor(name, weight, (len(token_ids), base.embedding.shape[1]))
        check_fits(name, weight, base.dtype)
        order = torch.tensor(token_ids).argsort()
        found[module] = ReplacedRows(torch.tensor(token_ids)[order], weight[order])
    if base.tied and path in found and named.get(head, named[path]) == named[path]:
        own = found.setdefault(head, found[path])
        if not torch.equal(own.weight, found[path].weight):
            raise AdapterRefusedError(
                f"{TENSORS}: the trained tokens of {path!r} and {head!r} differ, the base ties them"
            )
    return found


def _named_tokens(trained: TrainedTokens, base: BaseInfo) -> dict[str, list[int]]:
    """The token ids by module path."""
    by_module = trained.token_ids
    if by_module is None:
        return {}
    if base.embedding is None:
        raise AdapterRefusedError(
            f"{CONFIG}: {trained.key}: this base's embeddings are of a kind that no adapter may "
            "change"
        )
    if isinstance(by_module, list):
        by_module = {base.embedding.path: by_module}
    if not isinstance(by_module, dict):
        raise AdapterRefusedError(f"{CONFIG}: {trained.key} must be a list or an object of lists")
    named: dict[str, list[int]] = {}
    for module, token_ids in by_module.items():
        paths = [p for p in (base.embedding.path, base.head) if p and module and p.endswith(module)]
        if len(paths) != 1 or paths[0] in named:
            raise AdapterRefusedError(
                f"{CONFIG}: {trained.key}: module {module[:80]!r}: only tokens of "
                f"{base.embedding.path!r} and {base.head!r} are served"
            )
        named[paths[0]] = _token_ids(trained.key, token_ids, base.embedding.shape[0])
    return named


def _token_ids(key: str, value: object, num_tokens: int) -> list[int]:
    if (
        not isinstance(value, list)
        or not value
        or not all(type(i) is int and 0 <= i < num_tokens for i in value)
        or len(set(value)) < len(value)
    ):
        raise AdapterRefusedError(
            f"{CONFIG}: {key} must hold different token ids from 0 to {num_tokens - 1}"
        )
    return value


def _merged(weight: torch.Tensor, update: LowRank) -> torch.Tensor:
    return torch.addmm(weight.float(), update.b.float(), update.a.float(), alpha=update.scaling)
