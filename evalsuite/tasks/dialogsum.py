"""DialogSum (Chen et al. 2021): summaries of everyday dialogues, three references in the test set.

Reads the authors' JSON lines (`summary1` to `summary3` in the test set, `summary` elsewhere), and
the flattened form of one row per reference, whose ids end in a second number (`test_0_1`).
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from evalsuite.data import DataRow, NumberedRow, read_rows
from evalsuite.task import Definition, TaskSpec
from evalsuite.types import Sample

_FLATTENED = re.compile(r"^(.+_\d+)_\d+$")
_SUMMARIES = ("summary1", "summary2", "summary3")

SPEC = TaskSpec(
    name="dialogsum",
    folder="dialogsum",
    data=("dialogsum.test.jsonl", "test.csv", "test.jsonl"),
    train=("dialogsum.train.jsonl", "train.csv", "train.jsonl"),
    template="Dialogue:\n{{ input }}\n\nSummary:\n",
    metrics=("rougeL", "rouge1", "rouge2", "rougeLsum"),
    max_tokens=128,
    stop=("\n",),
    source="https://github.com/cylnlp/dialogsum",
    licence="CC-BY-NC-SA-4.0",
    comparable="ROUGE-1 and ROUGE-2 with Porter stemmer and the best of three references per type. "
    "Numbers on the flattened set (one reference per row) are lower: see dialogsum_single. The "
    "paper's ROUGE-L comes from another script.",
    example={
        "fname": "test_0",
        "dialogue": "#Person1#: Is the printer free?\n#Person2#: In five minutes, I think.",
        "summary1": "#Person2# will be done with the printer in five minutes.",
        "summary2": "#Person1# waits for the printer.",
        "summary3": "#Person1# asks for the printer and has to wait five minutes.",
        "topic": "printer",
    },
)


def merged_rows(path: Path) -> Iterator[NumberedRow]:
    """Rows; those of a flattened file joined per dialogue, at the first one's line."""
    pending: NumberedRow | None = None
    for number, row in read_rows(path):
        key = _FLATTENED.match(str(row.get("fname", row.get("id", ""))))
        if key is None:
            yield number, row
            continue
        if pending is not None and pending[1]["fname"] == key[1]:
            pending[1]["summary"].append(row.get("summary"))
            continue
        if pending is not None:
            yield pending
        pending = number, {**row, "fname": key[1], "summary": [row.get("summary")]}
    if pending is not None:
        yield pending


def _references(row: DataRow) -> tuple[str, ...]:
    names = [name for name in _SUMMARIES if name in row]
    if names:
        return tuple(row.text(name) for name in names)
    return row.texts("summary") if isinstance(row["summary"], list) else (row.text("summary"),)


def convert(row: DataRow) -> Iterator[Sample]:
    """One sample per dialogue, with all its references."""
    topic = row.text("topic") if "topic" in row else ""
    yield Sample(row.id, row.text("dialogue"), _references(row), fields={"topic": topic})


def convert_single(row: DataRow) -> Iterator[Sample]:
    """One sample per reference; those of a dialogue are one group."""
    for sample in convert(row):
        for index, reference in enumerate(sample.references, start=1):
            name = f"{row.id}.{index}" if len(sample.references) > 1 else row.id
            yield replace(sample, id=name, references=(reference,), group=row.id)


TASKS = (
    Definition(SPEC, convert, merged_rows),
    Definition(
        replace(
            SPEC,
            name="dialogsum_single",
            comparable="ROUGE with Porter stemmer on the flattened test set of 1,500 rows, as most "
            "model cards report it; rougeL equals rougeLsum on one-line summaries. Not the "
            "three-reference numbers of the paper.",
        ),
        convert_single,
        merged_rows,
    ),
)
