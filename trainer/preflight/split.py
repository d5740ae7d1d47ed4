"""Training, validation and test examples, by a seeded hash of what must stay together."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.data import Example


@dataclass(frozen=True)
class Split:
    """The parts of a run's examples, each in the order of its rows."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]


def split_by_hash(examples: Sequence[Example], validation: float, test: float, seed: int) -> Split:
    """About `validation` and `test` of the distinct groups are held out.

    Decided by a seeded hash of the example's group, or else of its content, so equal ones never
    end up on two sides, and rows added or moved leave the others where they are. The two held-out
    parts stand at opposite ends of the hash: changing one share does not move rows of the other.
    """
    parts: tuple[list[Example], list[Example], list[Example]] = ([], [], [])
    for example in examples:
        rank = _rank(example, seed) / 2**64
        parts[1 if rank < validation else 2 if rank >= 1 - test else 0].append(example)
    return Split(*parts)


def draw(examples: Sequence[Example], most: int, seed: int) -> list[Example]:
    """At most `most` of the examples, in their order, drawn by hash."""
    order = sorted(range(len(examples)), key=lambda i: (_rank(examples[i], seed), i))
    return [examples[i] for i in sorted(order[:most])]


def _rank(example: Example, seed: int) -> int:
    key = example.content if example.group is None else example.group
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:8], "big")
