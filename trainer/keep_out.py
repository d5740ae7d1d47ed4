"""Which documents share a passage with text that must stay unseen, such as benchmark test sets.

A passage is 13 words in a row, the length of Brown et al. 2020 (appendix C), with case and
punctuation put aside. Passages are compared by 64-bit hashes.
"""

import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import DataError

NUM_WORDS = 13
NOT_A_WORD = re.compile(r"[\W_]+")
SUFFIXES = (".jsonl", ".json", ".tsv", ".csv", ".txt")
NOT_HELD_OUT = re.compile(r"train|readme|source|licen[cs]e", re.IGNORECASE)
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that no word's hash is lost by multiplying


def passages(text: str, num_words: int = NUM_WORDS) -> NDArray[np.uint64]:
    """Hashes of all runs of `num_words` words; of a shorter text none."""
    words = NOT_A_WORD.sub(" ", text.lower()).split()
    if len(words) < num_words:
        return np.empty(0, np.uint64)
    codes = [zlib.crc32(word.encode()) | len(word) << 32 for word in words]
    hashes = np.array(codes, np.uint64) * np.uint64(_MULTIPLIER)
    runs = np.zeros(len(words) - num_words + 1, np.uint64)
    for place in range(num_words):
        runs = runs * np.uint64(_MULTIPLIER) ^ hashes[place : place + len(runs)]
        runs ^= runs >> np.uint64(29)
    return runs


def texts_of(path: Path) -> Iterator[str]:
    """The strings in a JSON file or in lines of JSON; of other files the lines."""
    if path.suffix == ".json":
        yield from strings(json.loads(path.read_text(encoding="utf-8")))
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if path.suffix == ".jsonl":
                yield from strings(json.loads(line))
            else:
                yield line


def strings(value: Any) -> Iterator[str]:
    """The strings within a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def files_of(folder: Path) -> list[Path]:
    """Every .jsonl, .json, .tsv, .csv and .txt file below, whose name is not of training.

    Raises:
        DataError: no such folder, or no such file in it.
    """
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in SUFFIXES and not NOT_HELD_OUT.search(path.name)
    )
    if not paths:
        raise DataError(f"{folder}: no file to keep out there ({', '.join(SUFFIXES)})")
    return paths


class KeptOut:
    """The passages of texts that must stay unseen."""

    def __init__(self, texts: Iterable[str]) -> None:
        parts = [passages(text) for text in texts]
        self._passages = np.unique(np.concatenate([np.empty(0, np.uint64), *parts]))

    @classmethod
    def of_folder(cls, folder: Path) -> "KeptOut":
        """Those of every .jsonl, .json, .tsv, .csv and .txt file whose name is not of training.

        Raises:
            DataError: no such folder, no such file in it, or a file that is not JSON by its lines.
        """
        paths = files_of(folder)
        texts: list[str] = []
        for path in paths:
            try:
                texts.extend(texts_of(path))
            except ValueError as error:
                raise DataError(f"{path}: {error}") from error
        return cls(texts)

    def __len__(self) -> int:
        return len(self._passages)

    def meets(self, text: str) -> bool:
        """Whether the text has one of these passages."""
        found = passages(text)
        if not len(self._passages) or not len(found):
            return False
        places = np.searchsorted(self._passages, found)
        places[places == len(self._passages)] = 0
        return bool((self._passages[places] == found).any())
