"""What every generated example looks like, and the split rule all tasks share."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

VALIDATION_SHARE = 10  # one in ten inputs made from the train pools belongs to validation
MAX_TRIES_PER_ROW = 200


@dataclass(frozen=True)
class Row:
    """One example. `slots` maps a slot name to the value that was filled in."""

    input: str
    completion: str
    template_id: str
    slots: Mapping[str, str]
    label: str | None = None

    def to_json(self) -> str:
        """One JSONL line, without the line break."""
        fields: dict[str, Any] = {
            "input": self.input,
            "completion": self.completion,
            "template_id": self.template_id,
            "slots": dict(self.slots),
        }
        if self.label is not None:
            fields["label"] = self.label
        return json.dumps(fields, ensure_ascii=False)


def phrases(text: str) -> tuple[str, ...]:
    """Splits a block of phrases at "|", dropping the space around each."""
    return tuple(part.strip() for part in text.split("|") if part.strip())


def words(text: str) -> tuple[str, ...]:
    """Splits a block of words at white space."""
    return tuple(text.split())


def is_validation(text: str) -> bool:
    """Whether an input made from the train pools belongs to the validation split.

    Depends on the text alone, so train and validation never share an input, whatever the seeds.
    """
    return hashlib.sha256(text.encode()).digest()[0] % VALIDATION_SHARE == 0


def make_rows(
    make: Callable[[random.Random, Split], Row], split: Split, num: int, seed: int
) -> Iterator[Row]:
    """Yields `num` rows with distinct inputs; the same arguments give the same rows.

    Raises:
        ValueError: the templates cannot give that many distinct inputs.
    """
    rng = random.Random(f"{split}:{seed}")
    seen: set[str] = set()
    for index in range(num):
        for _ in range(MAX_TRIES_PER_ROW):
            row = make(rng, split)
            wrong_side = split != "test" and is_validation(row.input) != (split == "validation")
            if row.input not in seen and not wrong_side:
                break
        else:
            raise ValueError(f"only {index} distinct {split} rows exist, {num} were asked for")
        seen.add(row.input)
        yield row


def read_inputs(path: Path, num: int) -> list[str]:
    """The inputs of the first `num` rows of a JSONL file."""
    lines = path.read_text(encoding="utf-8").splitlines()[:num]
    return [json.loads(line)["input"] for line in lines]
