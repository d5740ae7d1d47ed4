"""Hashes of words in a row, over many texts at once.

The words of all texts stand behind each other in one array. Letters: W words, T texts, G windows.
Everything equals `understudy.fingerprint`, value by value.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.fingerprint import (
    MIX,
    MULTIPLIER,
    NGRAM,
    SHINGLE,
    SHORTEST,
    SKETCH,
    word_hash,
    words,
)

Hashes = npt.NDArray[np.uint64]
Owners = npt.NDArray[np.int64]

_U = np.uint64


@dataclass(frozen=True)
class Windows:
    """Distinct hashes of each document, sorted by document and then by hash."""

    hashes: Hashes  # [G]
    owners: Owners  # [G]
    """Index of the document."""


@dataclass(frozen=True)
class Words:
    """The words of texts, each text with the document it belongs to."""

    hashes: Hashes  # [W]
    begins: Owners  # [T]
    lengths: Owners  # [T]
    owners: Owners  # [T]

    def ngrams(self) -> Windows:
        """The n-grams of each document: of every text on its own."""
        parts = [self._windows(NGRAM, self.lengths >= NGRAM)]
        parts += [self._windows(size, self.lengths == size) for size in range(SHORTEST, NGRAM)]
        return _distinct(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def sketches(self) -> Windows:
        """The SKETCH smallest shingles of each document."""
        every = _distinct(*self._windows(SHINGLE, self.lengths >= SHORTEST))
        rank = np.arange(len(every.owners)) - np.searchsorted(every.owners, every.owners)
        return Windows(every.hashes[rank < SKETCH], every.owners[rank < SKETCH])

    def _windows(self, size: int, chosen: npt.NDArray[np.bool_]) -> tuple[Hashes, Owners]:
        """The hash of every `size` words in a row of the chosen texts, and its document."""
        counts = self.lengths[chosen] - size + 1
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = np.repeat(self.begins[chosen], counts) + within
        value = np.full(len(starts), size * pow(MULTIPLIER, size) % (1 << 64), _U)
        for place in range(size):
            value += self.hashes[starts + place] * _U(pow(MULTIPLIER, size - 1 - place, 1 << 64))
        value = (value ^ (value >> _U(30))) * _U(MIX[0])
        value = (value ^ (value >> _U(27))) * _U(MIX[1])
        return value ^ (value >> _U(31)), np.repeat(self.owners[chosen], counts)


class _WordHashes(dict[str, int]):
    """Each distinct word is hashed once."""

    def __missing__(self, word: str) -> int:
        found = self[word] = word_hash(word)
        return found


class TextHasher:
    """Turns texts into word hashes; remembers the words it has met."""

    def __init__(self) -> None:
        """Knows no word yet."""
        self._known = _WordHashes()

    def words(self, documents: Sequence[Iterable[str]]) -> Words:
        """The words of the texts of each document."""
        texts = [(words(text), i) for i, found in enumerate(documents) for text in found]
        known = self._known
        lengths = np.array([len(found) for found, _ in texts], np.int64)
        every = (known[word] for found, _ in texts for word in found)
        return Words(
            np.fromiter(every, _U, int(lengths.sum())),
            np.cumsum(lengths) - lengths,
            lengths,
            np.array([owner for _, owner in texts], np.int64),
        )


def _distinct(hashes: Hashes, owners: Owners) -> Windows:
    order: npt.NDArray[Any] = np.lexsort((hashes, owners))
    hashes, owners = hashes[order], owners[order]
    new = np.ones(len(hashes), bool)
    new[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    return Windows(hashes[new], owners[new])
