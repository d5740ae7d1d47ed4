"""Rows of embeddings and output head that an adapter trained: those of some tokens."""

from collections.abc import MutableMapping
from dataclasses import dataclass

import torch

from server.adapters.peft_format import CONFIG, PREFIX, TENSORS, check_fits, check_tensor
from server.adapters.weights import ReplacedRows
from server.errors import AdapterRefusedError
from server.types import BaseInfo


@dataclass(frozen=True)
class TrainedTokens:
    """Where an artifact has its trained tokens: the `key` of the configuration with their
    `token_ids`, a list or an object of lists by module, and what their tensors are called behind
    the module's path."""

    key: str
    token_ids: object
    suffix: str


def take_rows(
    trained: TrainedTokens, tensors: MutableMapping[str, torch.Tensor], base: BaseInfo
) -> dict[str, ReplacedRows]:
    """Takes the trained tokens of embeddings and head out of `tensors`, by module path.

    Raises AdapterRefusedError naming the key or tensor at fault.
    """
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
