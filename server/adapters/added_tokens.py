"""Tokens that an adapter adds to the base's vocabulary: rows of embeddings and head behind the
base's, and their text in tokenizer files beside them.

The base's tokens keep their ids and their rules; what the files say of them must be what the base
says. The tokenizer that results shares the base's model, and so takes little memory.
"""

import copy
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from typing import Any, cast

import torch
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from server.adapters.peft_format import PREFIX, TENSORS
from server.adapters.weights import AdapterWeights, AddedVocabulary
from server.errors import AdapterRefusedError
from server.types import BaseInfo, EmbeddingInfo
from understudy.artifact import (
    MAX_JSON_BYTES,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    parse_json_object,
)

# Every row of logits of a step is as wide as the widest.
MAX_ADDED_TOKENS = 4096
_MAX_TOKEN_CHARS = 256

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# How PEFT calls the resized weights, by what wraps them.
_SUFFIXES = (".weight", ".base_layer.weight", ".token_adapter.base_layer.weight")
_DELTA = ".token_adapter.trainable_tokens_delta"
# Parts of tokenizer.json that say how text becomes tokens, and tokens text.
_RULES = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "model")


def vocabulary_size(tensors: Mapping[str, torch.Tensor], base: BaseInfo) -> int:
    """The tokens that embeddings and head in `tensors` have rows for, at least the base's.

    Raises AdapterRefusedError for more than may be added.
    """
    if base.embedding is None:
        return base.vocab_size
    num_base, hidden = base.embedding.shape
    found = {
        name: tensors[name].shape[0]
        for path in (base.embedding.path, base.head)
        for suffix in _SUFFIXES
        if (name := PREFIX + path + suffix) in tensors
        and tensors[name].dim() == 2
        and tensors[name].shape[1] == hidden
    }
    name = max(found, key=lambda name: found[name], default="")
    if not name or found[name] <= num_base:
        return base.vocab_size
    if found[name] > num_base + MAX_ADDED_TOKENS:
        raise AdapterRefusedError(
            f"{TENSORS}: tensor {name!r} has {found[name]} rows, the base {num_base}: at most "
            f"{MAX_ADDED_TOKENS} tokens can be added"
        )
    shape = base.linear_shapes.get(base.head, (num_base, hidden))
    if not num_base == base.vocab_size == shape[0]:
        raise AdapterRefusedError(
            f"{TENSORS}: tensor {name!r} has {found[name]} rows: no tokens can be added to this "
            "base, whose embeddings and output head differ in size"
        )
    return found[name]


def resized(base: BaseInfo, num_tokens: int) -> BaseInfo:
    """The base as `resize_token_embeddings` makes it, to check an adapter's tensors against."""
    assert base.embedding is not None
    shapes = dict(base.linear_shapes)
    if base.head:
        shapes[base.head] = (num_tokens, shapes[base.head][1])
    return replace(
        base,
        vocab_size=num_tokens,
        embedding=EmbeddingInfo(base.embedding.path, (num_tokens, base.embedding.shape[1])),
        linear_shapes=shapes,
        # However much of it is the base's: the rows behind are not.
        is_own_weight=lambda path, weight: False,
    )


def without_copies(
    tensors: Mapping[str, torch.Tensor], base: BaseInfo
) -> MutableMapping[str, torch.Tensor]:
    """`tensors` without those that PEFT saves once more where embeddings were resized.

    Raises AdapterRefusedError where the two differ.
    """
    left = dict(tensors)
    assert base.embedding is not None
    for name in {PREFIX + base.embedding.path, PREFIX + base.head}:
        # What the saved module stands in for is never run.
        left.pop(f"{name}.original_module.weight", None)
        again = left.pop(f"{name}.modules_to_save.weight", None)
        own = left.get(f"{name}.weight")
        if again is not None and (own is None or not torch.equal(own, again)):
            raise AdapterRefusedError(
                f"{TENSORS}: {name + '.modules_to_save.weight'!r} differs from {name + '.weight'!r}"
            )
        wrapped = left.pop(f"{name}.token_adapter.base_layer.weight", None)
        if wrapped is not None:
            left[f"{name}.base_layer.weight"] = wrapped
    ours, theirs = (PREFIX + path + _DELTA for path in (base.embedding.path, base.head))
    if base.tied and ours in left and theirs in left and torch.equal(left[ours], left[theirs]):
        del left[theirs]
    return left


def check_resized(weights: AdapterWeights, base: BaseInfo, num_tokens: int) -> None:
    """Raises AdapterRefusedError unless embeddings and head have rows for all tokens."""
    assert base.embedding is not None
    embedding = weights.embedding.replacement if weights.embedding is not None else None
    head = weights.linears.get(base.head)
    own = head.replacement.weight if head is not None and head.replacement is not None else None
    needed = {base.embedding.path: embedding}
    if weights.classifier is None:
        needed[base.head] = own
    for path, weight in needed.items():
        if weight is None or len(weight) != num_tokens:
            raise AdapterRefusedError(
                f"{TENSORS}: adds tokens to a vocabulary of {base.vocab_size}, and has no weight "
                f"of {num_tokens} rows of {path or 'the output head'!r}; save the adapter with "
                "PEFT's save_embedding_layers=True"
            )


def max_tokenizer_bytes(base: BaseInfo) -> int:
    """What a tokenizer.json may have: the base's tokens, and as much as any JSON file."""
    return len(_backend(base).to_str(pretty=True).encode()) + MAX_JSON_BYTES


def read_added_tokens(texts: Mapping[str, str], base: BaseInfo, num_tokens: int) -> AddedVocabulary:
    """The vocabulary of `num_tokens` that the tokenizer's files, by name, add to the base's.

    Raises AdapterRefusedError where they say anything else of the base's tokens than the base.
    """
    backend = _backend(base)
    added: dict[int, AddedToken] = {}
    if TOKENIZER_FILE in texts:
        added = _new_tokens(_listed_tokens(texts[TOKENIZER_FILE], backend), backend, num_tokens)
    tokenizer = cast(PreTrainedTokenizerBase, base.tokenizer)
    if added:
        tokenizer = copy.copy(tokenizer)
        # Where transformers keeps the tokenizer that does the work.
        tokenizer._tokenizer = _extended(backend, added)
    eos = frozenset[int]()
    if TOKENIZER_CONFIG_FILE in texts:
        eos = _eos(parse_json_object(texts[TOKENIZER_CONFIG_FILE], TOKENIZER_CONFIG_FILE), added)
    num_named = sum(i >= base.vocab_size for i in added)
    return AddedVocabulary(num_tokens, num_tokens - base.vocab_size - num_named, tokenizer, eos)


def _backend(base: BaseInfo) -> Tokenizer:
    backend = getattr(base.tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise AdapterRefusedError(
            f"{TENSORS}: adds tokens to the vocabulary; this base's tokenizer is of a kind that "
            "takes none"
        )
    return backend


def _listed_tokens(text: str, backend: Tokenizer) -> object:
    """`added_tokens` of a tokenizer.json whose rules are the base's."""
    base_text = backend.to_str(pretty=True)
    start = base_text.find(f'\n  "{_RULES[0]}":')
    if start >= 0 and text.endswith(base_text[start:]):
        # As the same library wrote it: the rules come last, to the letter. The model's alone take
        # seconds to parse.
        head = text[: start - len(base_text)].rstrip().removesuffix(",") + "}"
        data = parse_json_object(head, TOKENIZER_FILE)
        twice = next((rule for rule in _RULES if rule in data), None)
        if twice is not None:
            raise AdapterRefusedError(f"{TOKENIZER_FILE}: duplicate key {twice!r}")
        return data.get("added_tokens")
    data = parse_json_object(text, TOKENIZER_FILE)
    own = parse_json_object(base_text, "the base's tokenizer")
    for rule in _RULES:
        if not _is_same(data.get(rule), own.get(rule)):
            raise AdapterRefusedError(
                f"{TOKENIZER_FILE}: {rule!r} differs from the base's; only tokens can be added"
            )
    return data.get("added_tokens")


def _new_tokens(value: object, backend: Tokenizer, num_tokens: int) -> dict[int, AddedToken]:
    """The tokens that the base's tokenizer lacks, by id, ascending."""
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise AdapterRefusedError(f"{TOKENIZER_FILE}: added_tokens must be a list of objects")
    known = backend.get_added_tokens_decoder()
    found: dict[int, AddedToken] = {}
    contents: set[str] = set()
    missing = dict(known)
    for entry in value:
        token_id, token = _token(entry)
        where = f"{TOKENIZER_FILE}: added token {token.content[:80]!r} with id {token_id}"
        if token_id in found or token.content in contents:
            raise AdapterRefusedError(f"{where}: is there twice")
        contents.add(token.content)
        if token_id in known:
            if _flags(missing.pop(token_id, None)) != _flags(token):
                raise AdapterRefusedError(
                    f"{where}: the base has {known[token_id].content!r} there"
                )
            continue
        if backend.id_to_token(token_id) is not None:
            raise AdapterRefusedError(
                f"{where}: the base has {backend.id_to_token(token_id)!r} there"
            )
        if backend.token_to_id(token.content) is not None:
            raise AdapterRefusedError(
                f"{where}: the base has it as {backend.token_to_id(token.content)}"
            )
        if token_id >= num_tokens:
            raise AdapterRefusedError(f"{where}: {TENSORS} has {num_tokens} rows")
        found[token_id] = token
    if missing:
        lost = next(iter(missing.values()))
        raise AdapterRefusedError(f"{TOKENIZER_FILE}: lacks the base's token {lost.content!r}")
    return dict(sorted(found.items()))


def _token(entry: Mapping[str, Any]) -> tuple[int, AddedToken]:
    token_id, content = entry.get("id"), entry.get("content")
    flags = {flag: entry.get(flag, False) for flag in _FLAGS}
    if (
        type(token_id) is not int
        or token_id < 0
        or not isinstance(content, str)
        or not 1 <= len(content) <= _MAX_TOKEN_CHARS
        or not all(isinstance(flag, bool) for flag in flags.values())
        or entry.keys() - {"id", "content", *_FLAGS}
    ):
        raise AdapterRefusedError(
            f"{TOKENIZER_FILE}: added token {str(content)[:80]!r} is malformed"
        )
    return token_id, AddedToken(content, **flags)


def _flags(token: AddedToken | None) -> tuple[object, ...]:
    return () if token is None else (token.content, *(getattr(token, flag) for flag in _FLAGS))


def _extended(backend: Tokenizer, added: Mapping[int, AddedToken]) -> Tokenizer:
    """The base's tokenizer with more tokens; they share the model."""
    tokenizer = Tokenizer(backend.model)
    for rule in _RULES[:-1]:
        if getattr(backend, rule) is not None:
            setattr(tokenizer, rule, getattr(backend, rule))
    for token_id, token in {**backend.get_added_tokens_decoder(), **added}.items():
        # In the order of their ids, which are given one after the other.
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
        if tokenizer.token_to_id(token.content) != token_id:
            raise AdapterRefusedError(
                f"{TOKENIZER_FILE}: added token {token.content[:80]!r} has id {token_id}: ids must "
                "follow each other behind the base tokenizer's last"
            )
    return tokenizer


def _eos(config: Mapping[str, Any], added: Mapping[int, AddedToken]) -> frozenset[int]:
    """The added token that ends a text, if one does."""
    name = config.get("eos_token")
    if isinstance(name, dict):
        name = name.get("content")
    return frozenset(i for i, token in added.items() if token.content == name)


def _is_same(ours: object, theirs: object) -> bool:
    """Whether two parts say the same; versions of the library write what is off or leave it out."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = ours.keys() | theirs.keys()
        return all(_is_same(ours.get(key), theirs.get(key)) for key in keys)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_is_same, ours, theirs))
    if isinstance(ours, str) and isinstance(theirs, list):
        # A merge: "a b" or ["a", "b"].
        return ours == " ".join(map(str, theirs))
    return ours == theirs or (ours in (None, False) and theirs in (None, False))
