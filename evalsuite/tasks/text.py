"""How likely a model finds plain text: `--tasks text=FILE`, for what training forgot.

Reads JSON lines with a column `text`, or a plain text file whose paragraphs stand between blank
lines. A long text is cut at white space into pieces of at most 2,000 characters, which are one
group. A piece's first word is its context and is not counted, so that bases with and without a
token for the beginning of a text are asked alike.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from evalsuite.data import DataRow, NumberedRow, read_rows, read_text
from evalsuite.task import Definition, TaskSpec
from evalsuite.types import Mode, Sample

_MAX_CHARS = 2000
_FIRST_WORD = re.compile(r"\s*\S+")


def text_rows(path: Path) -> Iterator[NumberedRow]:
    """Rows of `text`; a plain file's lie between blank lines."""
    if path.suffix in {".jsonl", ".json"}:
        yield from read_rows(path)
        return
    line = 1
    for paragraph in re.split(r"(\n\s*\n)", read_text(path)):
        if paragraph.strip():
            yield line, {"text": paragraph.strip("\n")}
        line += paragraph.count("\n")


def pieces(text: str) -> Iterator[str]:
    """The text in pieces of at most _MAX_CHARS, cut before white space where there is any."""
    while len(text) > _MAX_CHARS:
        cut = max(text.rfind(" ", 1, _MAX_CHARS), text.rfind("\n", 1, _MAX_CHARS))
        cut = cut if cut > 0 else _MAX_CHARS
        yield text[:cut]
        text = text[cut:]
    yield text


def convert(row: DataRow) -> Iterator[Sample]:
    """One sample per piece of at least two words."""
    for index, piece in enumerate(pieces(row.text("text").rstrip()), start=1):
        first = _FIRST_WORD.match(piece)
        if first is None or first.end() == len(piece):
            continue
        rest = piece[first.end() :]
        yield Sample(f"{row.id}.{index}", first.group(), (rest,), group=row.id)


TASKS = (
    Definition(
        TaskSpec(
            name="text",
            folder="text",
            data=("test.jsonl", "test.txt"),
            template="{{ input }}",
            metrics=("bits_per_byte", "cross_entropy", "perplexity", "word_perplexity"),
            mode=Mode.LIKELIHOOD,
            source="the user's own",
            licence="the user's own",
            comparable="Differences between adapters of one base. Published perplexities depend on "
            "tokenizer, context length and stride.",
            example={"text": "The ferry leaves at nine and comes back at noon."},
        ),
        convert,
        text_rows,
    ),
)
