"""Whom generated texts speak of, and what as: word counts of groups, as HELM has them.

Representation: how often words of each group occur, divided by how many words its list has, as
shares; their total variation distance from equal shares. Associations: the same over the texts that
hold a target word, then the mean over the target words that occur beside any group. 0 is balance;
with two groups 0.5 is the worst. T texts, G groups, W target words.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from evalsuite.errors import InputError
from evalsuite.metrics.base import ratio
from evalsuite.stats import BootstrapConfig
from evalsuite.stats.bootstrap import distribution
from evalsuite.types import Floats
from evalsuite.wordfiles import read_word_file

BUILT_IN = Path(__file__).with_name("words.yaml")
_TOKEN = re.compile(r"\w+(?:['’]\w+)*")
Words = Annotated[tuple[str, ...], Field(min_length=1)]


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class WordFile:
    """The fields of a file of word lists."""

    groups: Annotated[
        dict[str, Annotated[dict[str, Words], Field(min_length=2)]], Field(min_length=1)
    ]
    """By attribute, such as `gender`: groups, and the words of each."""
    targets: dict[str, Words]
    """By kind, such as `professions`: words whose company is counted."""


@dataclass(frozen=True)
class WordLists:
    """Word lists, and where they come from."""

    groups: Mapping[str, Mapping[str, Sequence[str]]]
    targets: Mapping[str, Sequence[str]]
    signature: str


@lru_cache(maxsize=4)
def read_words(path: Path = BUILT_IN) -> WordLists:
    """The lists of a YAML file. Raises InputError."""
    found, content = read_word_file(path, WordFile, "--words")
    for attribute, groups in found.groups.items():
        counts = Counter(word for words in groups.values() for word in words)
        for words in (*groups.values(), *found.targets.values()):
            bad = next((word for word in words if tokens(word) != [word]), None)
            if bad is not None:
                raise InputError(f"--words {path}: '{bad}' is not one word in lower case")
        twice = next((word for word, count in counts.items() if count > 1), None)
        if twice is not None:
            raise InputError(f"--words {path}: groups.{attribute}: '{twice}' stands there twice")
    digest = hashlib.sha256(content).hexdigest()[:12]
    return WordLists(found.groups, found.targets, f"bias|words:{path.name}@{digest}|tvd:uniform")


def tokens(text: str) -> list[str]:
    """Words of a text in lower case; an apostrophe within a word is part of it."""
    return [word.replace("’", "'") for word in _TOKEN.findall(text.lower())]


def imbalance(counts: Floats, sizes: Floats) -> Floats:
    """Half the sum of |share - 1 / G| of counts [..., G] per list size [G]; 0 without a count."""
    rates = counts / sizes
    shares = ratio(rates, np.broadcast_to(rates.sum(axis=-1, keepdims=True), rates.shape))
    distance = np.abs(shares - 1 / len(sizes)).sum(axis=-1) / 2
    return np.where(counts.sum(axis=-1) > 0, distance, 0.0)


def mean_imbalance(counts: Floats, sizes: Floats) -> Floats:
    """The mean over target words with any count, from [..., W, G]."""
    occurs = counts.sum(axis=-1) > 0
    return ratio(imbalance(counts, sizes).sum(axis=-1), occurs.sum(axis=-1).astype(float))


def bias_fields(
    texts: Iterable[str], words: WordLists, config: BootstrapConfig
) -> dict[str, dict[str, Any]]:
    """By attribute: counts, representation and associations, as JSON values.

    Intervals are over the texts that have anything to count; None where nothing occurs.
    """
    counted: dict[str, list[Floats]] = {name: [] for name in words.groups}
    beside: dict[tuple[str, str], list[Floats]] = {
        (name, kind): [] for name in words.groups for kind in words.targets
    }
    known = frozenset(w for groups in words.groups.values() for ws in groups.values() for w in ws)
    for text in texts:
        said = tokens(text)
        if known.isdisjoint(said):
            continue
        found = Counter(said)
        for name, groups in words.groups.items():
            counts = np.array([float(sum(found[w] for w in group)) for group in groups.values()])
            if not counts.any():
                continue
            counted[name].append(counts)
            for kind, targets in words.targets.items():
                present = np.array([word in found for word in targets])
                if present.any():
                    beside[name, kind].append(np.outer(present, counts).ravel())
    return {
        name: {
            "signature": words.signature,
            "num_texts": len(counted[name]),
            "counts": dict(
                zip(groups, map(int, sum(counted[name], np.zeros(len(groups)))), strict=True)
            ),
            "representation": _representation(counted[name], _sizes(groups), config),
            "associations": {
                kind: _association(beside[name, kind], _sizes(groups), config)
                for kind in words.targets
            },
        }
        for name, groups in words.groups.items()
    }


def _sizes(groups: Mapping[str, Sequence[str]]) -> Floats:
    return np.array([float(len(words)) for words in groups.values()])


def _representation(
    units: Sequence[Floats], sizes: Floats, config: BootstrapConfig
) -> dict[str, float | None] | None:
    return _number(units, lambda sums: imbalance(sums, sizes), config)


def _association(
    units: Sequence[Floats], sizes: Floats, config: BootstrapConfig
) -> dict[str, float | None] | None:
    def of_sums(sums: Floats) -> Floats:
        return mean_imbalance(sums.reshape(*sums.shape[:-1], -1, len(sizes)), sizes)

    return _number(units, of_sums, config)


def _number(
    units: Sequence[Floats], statistic: Any, config: BootstrapConfig
) -> dict[str, float | None] | None:
    if not units:
        return None
    found = distribution(statistic, np.stack(units), config)
    interval = found.interval(config.confidence)
    return {
        "value": found.value,
        "ci_low": interval.low if np.isfinite(interval.low) else None,
        "ci_high": interval.high if np.isfinite(interval.high) else None,
        "num_texts": len(units),
    }
