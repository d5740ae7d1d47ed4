"""Translation pairs: `--tasks translation=PAIRS.tsv`.

Reads TSV of source and one or more references without a header, JSON lines `{"source", "target"}`
(the target a text or a list), and WMT's JSON lines on Hugging Face,
`{"translation": {"en", "de"}}`, from the first language to the second.
"""

from collections.abc import Iterator
from pathlib import Path

from evalsuite.data import DataRow, NumberedRow, read_rows, read_text
from evalsuite.errors import InputError
from evalsuite.task import Definition, TaskSpec
from evalsuite.types import Sample


def pair_rows(path: Path) -> Iterator[NumberedRow]:
    """Rows of `source` and `target`."""
    if path.suffix != ".tsv":
        yield from read_rows(path)
        return
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        source, *targets = line.split("\t")
        if not targets:
            raise InputError(f"{path}:{number}: one cell, expected source TAB reference")
        yield number, {"source": source, "target": targets}


def convert(row: DataRow) -> Iterator[Sample]:
    """One sentence, with all its references."""
    if "translation" in row:
        pair = row.mapping("translation")
        if len(pair) != 2:
            raise InputError(f"{row.where}: 'translation' must hold two languages")
        source, target = (pair.text(language) for language in pair)
        yield Sample(row.id, source, (target,))
        return
    targets = row.texts("target") if isinstance(row["target"], list) else (row.text("target"),)
    yield Sample(row.id, row.text("source"), targets)


TASKS = (
    Definition(
        TaskSpec(
            name="translation",
            folder="translation",
            data=("test.tsv", "test.jsonl"),
            train=("train.tsv", "train.jsonl"),
            template="{{ input }}\n\nTranslation:\n",
            metrics=("bleu", "chrf", "ter"),
            max_tokens=256,
            stop=("\n",),
            source="the user's own",
            licence="the user's own",
            comparable="sacrebleu's corpus BLEU, chrF2 and TER with the same signature on the same "
            "test set. Averages of sentence BLEU never compare.",
            example={"source": "Wie geht es dir heute?", "target": "How are you today?"},
        ),
        convert,
        pair_rows,
    ),
)
