"""The text that pretraining held out, and the tokens it trained on, from its folders.

A folder is what `python -m trainer pretrain --work` prepares: `data.json`, `tokenizer/`, and for
each source the token files `NAME.train.npy` and `NAME.validation.npy`, in which every document
stands between the token that begins a text and the one that ends it. Byte-level tokens decode to
the very text, so that the corpus itself is not needed.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

BOS, EOS = "<|bos|>", "<|eos|>"
Tokens = NDArray[np.uint16]


class CardError(Exception):
    """What keeps a number from being measured, with its remedy."""


@dataclass(frozen=True)
class Document:
    """A held-out document."""

    source: str
    text: str

    @property
    def num_bytes(self) -> int:
        """Of its UTF-8 form."""
        return len(self.text.encode())


def read_counts(work: Path) -> list[dict[str, Any]]:
    """What `data.json` says of each source. Raises CardError."""
    path = work / "data.json"
    if not path.is_file():
        raise CardError(f"{path}: no such file; --work names a folder of `trainer pretrain --work`")
    counts: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return counts


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a base, or of a folder of pretraining. Raises CardError."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CardError(f"{path}: no such file")
    return Tokenizer.from_file(str(path))


def held_out(works: Sequence[Path]) -> list[Document]:
    """The held-out documents of one or more stages, each text once. Raises CardError."""
    found: dict[str, Document] = {}
    for work in works:
        every = read_counts(work)
        tokenizer = read_tokenizer(work / "tokenizer")
        for counts in every:
            name = counts["source"]
            tokens = np.load(work / f"{name}.validation.npy")
            texts = [decode(tokenizer, document) for document in _split(tokens, tokenizer)]
            num_bytes = sum(len(text.encode()) for text in texts)
            if num_bytes != counts["num_validation_bytes"]:
                raise CardError(
                    f"{work}: the held-out tokens of {name!r} decode to {num_bytes} bytes, not to "
                    f"the {counts['num_validation_bytes']} that data.json counted"
                )
            for text in texts:
                found.setdefault(text, Document(name, text))
    return [document for text, document in found.items() if text.strip()]


def training_tokens(works: Sequence[Path], without: Sequence[Document] = ()) -> Tokens:
    """All training documents of the stages in a row, each once, but those held out.

    Raises CardError where the stages do not share one vocabulary.
    """
    vocabularies = [read_tokenizer(work / "tokenizer").get_vocab() for work in works]
    if any(vocabulary != vocabularies[0] for vocabulary in vocabularies):
        raise CardError("--work: the folders have different vocabularies")
    tokenizer = read_tokenizer(works[0] / "tokenizer")
    seen = {_bytes(encode(tokenizer, document.text)) for document in without}
    kept: list[Tokens] = []
    for work in works:
        for counts in read_counts(work):
            tokens = np.load(work / f"{counts['source']}.train.npy", mmap_mode="r")
            for document in _split(tokens, tokenizer):
                if (key := _bytes(document[:-1])) not in seen:
                    seen.add(key)
                    kept.append(document)
    return np.concatenate(kept)


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text behind the token that begins one."""
    ids: list[int] = tokenizer.encode(text).ids
    return ids


def decode(tokenizer: Tokenizer, document: Tokens) -> str:
    """The text of a document, its control tokens but the first and the last spelt out."""
    text: str = tokenizer.decode(document[1:-1].tolist(), skip_special_tokens=False)
    return text


def _split(tokens: Tokens, tokenizer: Tokenizer) -> Iterator[Tokens]:
    """The documents, each from the token that begins it to the one that ends it."""
    begins = np.flatnonzero(tokens == tokenizer.token_to_id(BOS))
    for begin, end in zip(begins, [*begins[1:], len(tokens)], strict=True):
        if tokens[end - 1] != tokenizer.token_to_id(EOS):
            raise CardError("a document of the token files does not end with <|eos|>")
        yield np.asarray(tokens[begin:end])


def _bytes(ids: Sequence[int] | Tokens) -> bytes:
    return np.asarray(ids, dtype=np.uint16).tobytes()
