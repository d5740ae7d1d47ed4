"""Fingerprints of test items, to find them again in training data without holding their text.

A file of fingerprints is JSON lines. The first is the header

    {"format": "understudy-fingerprints", "version": 2, "ngram": 13, "shortest": 8, "shingle": 5,
     "sketch": 128}

and each further line one item:

    {"task": "gsm8k@1", "data": "<sha256 of the data>", "id": "17",
     "texts": ["<hash>", ...], "ngrams": ["<hash>", ...], "sketch": ["<hash>", ...]}

Texts are an item's input and its references, each on its own. A text is put in Unicode form NFKC,
lower-cased and cut into words (runs of letters, digits and underscores; each character for itself
where a script puts no spaces between words); `texts` holds the hash of
all its words, `ngrams` those of every 13 words in a row (Brown et al. 2020, appendix C). A text of
8 to 12 words has one n-gram, all of it; a shorter one is too common to tell anything and counts
only as a whole, and only where it is an input of at least 4 words. `sketch` holds the 128 smallest
hashes of every 5 words in a row of an input of at least 8 words (Broder 1997): two sketches tell
how alike two texts are.

The hash of a whole text is the first 16 hexadecimal digits of the SHA-256 of its words, joined by
spaces, in UTF-8. That of words in a row is made from each word's own, so that a large number of
them is quick to compute: see `window_hash`.
"""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NGRAM = 13
SHORTEST = 8
FORMAT = "understudy-fingerprints"
VERSION = 2
SHINGLE = 5
SKETCH = 128

MULTIPLIER = 0x9E3779B97F4A7C15
MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_BITS = (1 << 64) - 1

_HEADER = {
    "format": FORMAT,
    "version": VERSION,
    "ngram": NGRAM,
    "shortest": SHORTEST,
    "shingle": SHINGLE,
    "sketch": SKETCH,
}
_SHORTEST_INPUT = 4
# Scripts that put no spaces between words: Thai to Lao, Burmese, Khmer, kana, ideographs.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"(?=\w)[{_UNSPACED}]|[^\W{_UNSPACED}]+")


class FingerprintError(ValueError):
    """The file is not one of fingerprints, or is damaged."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """One test item."""

    task: str
    """Name and version, `NAME@VERSION`."""
    data: str
    """Hex sha256 of the task's data."""
    id: str
    texts: tuple[str, ...]
    ngrams: tuple[str, ...]
    sketch: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Overlap:
    """What a text has in common with a test item."""

    task: str
    id: str
    whole: bool
    """The text is the item's input or a long reference, word for word."""
    share: float
    """Share of the item's n-grams that the text holds, 0..1."""
    similarity: float = 0.0
    """Estimated Jaccard index of the 5 words in a row of text and item, 0..1."""


def words(text: str) -> list[str]:
    """The words of a text, normalised."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def text_hash(found: Sequence[str]) -> str:
    """16 hexadecimal digits of words in a row."""
    return hashlib.sha256(" ".join(found).encode()).hexdigest()[:16]


def word_hash(word: str) -> int:
    """64 bits of a word: the first 8 bytes of its SHA-256, the first the highest."""
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")


def window_hash(hashes: Sequence[int]) -> int:
    """64 bits of n words in a row, from their own hashes w: all arithmetic modulo 2^64.

    h = n * M^n + w[0] * M^(n-1) + ... + w[n-1], then the finaliser of SplitMix64, which spreads
    it evenly.
    """
    value = len(hashes)
    for word in hashes:
        value = (value * MULTIPLIER + word) & _BITS
    value = ((value ^ (value >> 30)) * MIX[0]) & _BITS
    value = ((value ^ (value >> 27)) * MIX[1]) & _BITS
    return value ^ (value >> 31)


def ngram_hashes(found: Sequence[str]) -> Iterator[str]:
    """The hashes of every NGRAM words; of all words where there are SHORTEST to NGRAM of them."""
    hashes = [word_hash(word) for word in found]
    if SHORTEST <= len(hashes) < NGRAM:
        yield f"{window_hash(hashes):016x}"
    for start in range(len(hashes) - NGRAM + 1):
        yield f"{window_hash(hashes[start : start + NGRAM]):016x}"


def sketch(found: Sequence[str]) -> tuple[str, ...]:
    """The SKETCH smallest hashes of SHINGLE words in a row; none for fewer than SHORTEST words."""
    if len(found) < SHORTEST:
        return ()
    hashes = [word_hash(word) for word in found]
    windows = {
        window_hash(hashes[start : start + SHINGLE]) for start in range(len(hashes) - SHINGLE + 1)
    }
    return tuple(f"{value:016x}" for value in sorted(windows)[:SKETCH])


def similarity(first: Sequence[str], second: Sequence[str]) -> float:
    """Jaccard index of what two sketches were made from: exact up to SKETCH values, else estimated.

    The share of the smallest values of both together that both have (Broder 1997, section 4).
    """
    smallest = sorted({*first, *second})[:SKETCH]
    both = {*first} & {*second}
    return sum(value in both for value in smallest) / len(smallest) if smallest else 0.0


def fingerprint(
    task: str, data: str, item: str, text: str, references: Iterable[str]
) -> Fingerprint:
    """The fingerprint of a test item with input `text`."""
    asked = words(text)
    parts = [asked, *(words(reference) for reference in references)]
    kept = [part for part in parts if len(part) >= (_SHORTEST_INPUT if part is asked else SHORTEST)]
    return Fingerprint(
        task,
        data,
        item,
        tuple(dict.fromkeys(text_hash(part) for part in kept)),
        tuple(dict.fromkeys(found for part in kept for found in ngram_hashes(part))),
        sketch(asked),
    )


def lines(items: Iterable[Fingerprint]) -> Iterator[str]:
    """The lines of a file of fingerprints."""
    yield json.dumps(_HEADER) + "\n"
    for item in items:
        fields = {"task": item.task, "data": item.data, "id": item.id}
        hashes = {"texts": item.texts, "ngrams": item.ngrams, "sketch": item.sketch}
        yield json.dumps({**fields, **hashes}) + "\n"


def read(path: Path) -> Iterator[Fingerprint]:
    """The fingerprints of a file. Raises FingerprintError with file, line and fault."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                value = _parsed(path, number, line)
                if number == 1:
                    _check_header(path, value)
                    continue
                yield _item(path, number, value)
    except (OSError, UnicodeDecodeError) as error:
        raise FingerprintError(f"{path}: cannot be read: {error}") from error


def _parsed(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise FingerprintError(f"{path}:{number}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise FingerprintError(f"{path}:{number}: nested too deeply") from error
    if not isinstance(value, dict):
        raise FingerprintError(f"{path}:{number}: expected an object")
    return value


def _check_header(path: Path, header: dict[str, Any]) -> None:
    for name, value in _HEADER.items():
        if header.get(name) != value:
            raise FingerprintError(
                f"{path}:1: '{name}' is {header.get(name)!r}, expected {value!r}; write the file "
                "again with `python -m evalsuite fingerprints`"
            )


def _item(path: Path, number: int, value: dict[str, Any]) -> Fingerprint:
    try:
        return Fingerprint(
            str(value["task"]),
            str(value["data"]),
            str(value["id"]),
            *(_hashes(path, number, name, value[name]) for name in ("texts", "ngrams", "sketch")),
        )
    except KeyError as error:
        raise FingerprintError(f"{path}:{number}: no field {error}") from error


def _hashes(path: Path, number: int, name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(found, str) for found in value):
        raise FingerprintError(f"{path}:{number}: '{name}' must be a list of hashes")
    return tuple(value)


class FingerprintIndex:
    """Test items by what they hold, to look texts up in."""

    def __init__(self, items: Iterable[Fingerprint]) -> None:
        """Reads all items; memory grows with their n-grams."""
        self._items: list[Fingerprint] = []
        self._texts: dict[str, list[int]] = {}
        self._ngrams: dict[str, list[int]] = {}
        self._sketches: dict[str, list[int]] = {}
        for item in items:
            place = len(self._items)
            self._items.append(item)
            for found in item.texts:
                self._texts.setdefault(found, []).append(place)
            for found in item.ngrams:
                self._ngrams.setdefault(found, []).append(place)
            for found in item.sketch:
                self._sketches.setdefault(found, []).append(place)

    def __len__(self) -> int:
        """Items held."""
        return len(self._items)

    def overlaps(self, text: str) -> list[Overlap]:
        """The test items that `text` shares anything with, the largest share first.

        A text of 8 to 12 words is found as a whole; within a longer one, by n-grams of 13 words.
        """
        found = words(text)
        whole = set(self._texts.get(text_hash(found), ())) if found else set()
        shared: Counter[int] = Counter()
        for ngram in set(ngram_hashes(found)):
            shared.update(self._ngrams.get(ngram, ()))
        mine = sketch(found)
        alike = {place for value in mine for place in self._sketches.get(value, ())}
        overlaps = []
        for place in whole | shared.keys() | alike:
            item = self._items[place]
            share = shared[place] / len(item.ngrams) if item.ngrams else 0.0
            likeness = similarity(mine, item.sketch)
            overlaps.append(Overlap(item.task, item.id, place in whole, share, likeness))
        return sorted(overlaps, key=lambda o: (-o.share, not o.whole, o.task, o.id))
