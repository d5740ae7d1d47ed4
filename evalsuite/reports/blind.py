"""A page on which people compare answers without knowing whose they are, and its key.

The page holds no row label: which side is whose stands in the key, a file of its own. Sides are
drawn by a seed for every pair, so that a liking for one side cannot favour a row.
"""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from evalsuite.errors import InputError, nearest
from evalsuite.judging import TIE, Vote
from evalsuite.report import sample_record
from evalsuite.reports.page import embedded
from evalsuite.results import TaskResult

T = TypeVar("T")

_FOLDER = Path(__file__).with_name("page")


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class KeyEntry:
    """Whose the two sides of a pair are."""

    task: str
    sample: str
    rows: tuple[str, str]
    """Labels in the order shown."""


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Key:
    """The key of a page."""

    page: str
    """The page's id, which its votes name too."""
    pairs: Annotated[Mapping[str, KeyEntry], Field(min_length=1)]


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class VoteFile:
    """What a judge saves."""

    page: str
    judge: str
    votes: Mapping[str, Literal[0, 1, "tie"]]


@dataclass(frozen=True)
class BlindPage:
    """The page, and the key to it."""

    html: str
    key: Key


def blind_page(
    results: Sequence[TaskResult], rows: Sequence[str], num_pairs: int, seed: int
) -> BlindPage:
    """At most `num_pairs` pairs of different answers of these rows, drawn and ordered by the seed.

    Raises InputError for a row that was not asked, or if no two answers differ.
    """
    known = list(results[0].cells)
    for label in rows:
        if label not in known:
            raise InputError(f"--adapters: no row '{label}'; {nearest(label, known)}")
    rng = random.Random(seed)
    found: list[tuple[KeyEntry, dict[str, Any]]] = []
    for result in results:
        for index in range(len(result.task.samples)):
            records = {row: sample_record(result, result.cells[row], index) for row in rows}
            for pair in combinations(rows, 2):
                # A leading space of one row's answers would give it away.
                answers = {row: records[row].get("output", "").strip() for row in pair}
                refused = any("refusal" in records[row] for row in pair)
                if refused or len(set(answers.values())) < 2:
                    continue
                order = pair if rng.random() < 0.5 else pair[::-1]
                record = records[order[0]]
                entry = KeyEntry(result.task.name, record["id"], (order[0], order[1]))
                shown = [answers[row] for row in order]
                found.append((entry, {"input": record["input"], "answers": shown}))
    if not found:
        raise InputError(
            "--adapters: these rows gave the same answers; there is nothing to compare"
        )
    chosen = rng.sample(found, min(num_pairs, len(found)))
    pairs = [{"id": str(number), **shown} for number, (_, shown) in enumerate(chosen)]
    page = hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:16]
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined
    )
    html = environment.get_template("blind.html").render(
        title="Side by side",
        style=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        pairs=embedded({"id": page, "pairs": pairs}),
    )
    return BlindPage(html, Key(page, {str(n): entry for n, (entry, _) in enumerate(chosen)}))


def read_key(path: Path) -> Key:
    """A page's key. Raises InputError."""
    return _read(path, TypeAdapter(Key), "the key of a page")


def read_votes(path: Path, key: Key) -> list[Vote]:
    """The votes in a judge's file. Raises InputError if it belongs to another page."""
    found = _read(path, TypeAdapter(VoteFile), "a judge's votes")
    if found.page != key.page:
        raise InputError(f"{path}: votes on page {found.page}, the key is of page {key.page}")
    votes = []
    for number, choice in found.votes.items():
        if number not in key.pairs:
            raise InputError(f"{path}: a vote on pair '{number}', which the page does not have")
        entry = key.pairs[number]
        first, second = sorted(entry.rows)
        winner = TIE if choice == "tie" else entry.rows[choice]
        votes.append(Vote(found.judge, entry.task, entry.sample, first, second, winner))
    return votes


def _read(path: Path, adapter: TypeAdapter[T], what: str) -> T:
    try:
        return adapter.validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise InputError(f"{path}: not {what}: {error.errors()[0]['msg']}") from error
