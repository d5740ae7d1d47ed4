"""Training, validation and test examples, by a seeded hash of what must stay together."""

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.data import Example

Part = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Split:
    """The parts of a task's examples, each in the order of its rows; in memory or on disk."""

    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]


def split_by_hash(examples: Iterable[Example], validation: float, test: float, seed: int) -> Split:
    """`examples` by `part_of`, in memory."""
    parts: dict[Part, list[Example]] = {"train": [], "validation": [], "test": []}
    for example in examples:
        parts[part_of(example, validation, test, seed)].append(example)
    return Split(**parts)


def part_of(example: Example, validation: float, test: float, seed: int) -> Part:
    """Where an example belongs; about `validation` and `test` of the distinct groups are held out.

    Decided by a seeded hash of the example's group, or else of its content, so equal ones never
    end up on two sides, and rows added or moved leave the others where they are. The two held-out
    parts stand at opposite ends of the hash: changing one share does not move rows of the other.
    """
    place = rank(example, seed) / 2**64
    return "validation" if place < validation else "test" if place >= 1 - test else "train"


def draw(examples: Sequence[Example], most: int, seed: int) -> list[Example]:
    """At most `most` of the examples, in their order, drawn by hash."""
    return [examples[i] for i in drawn(examples, most, seed)]


def drawn(examples: Sequence[Example], most: int, seed: int) -> list[int]:
    """Indices of at most `most` of the examples, rising, drawn by hash."""
    ranked = ((rank(example, seed), i) for i, example in enumerate(examples))
    return sorted(i for _, i in heapq.nsmallest(most, ranked))


def rank(example: Example, seed: int) -> int:
    """A seeded hash of what keeps an example with others, as 64 bits."""
    key = example.content if example.group is None else example.group
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:8], "big")
