"""SAMSum (Gliwa et al. 2019): summaries of messenger conversations.

Reads the authors' JSON (a list of objects), the same as JSON lines, or CSV with a header.
"""

from collections.abc import Iterator

from evalsuite.data import DataRow
from evalsuite.task import Definition, TaskSpec
from evalsuite.types import Sample


def convert(row: DataRow) -> Iterator[Sample]:
    """One sample per conversation."""
    dialogue = row.text("dialogue").replace("\r\n", "\n")
    yield Sample(row.id, dialogue, (row.text("summary"),))


TASKS = (
    Definition(
        TaskSpec(
            name="samsum",
            folder="samsum",
            data=("test.json", "samsum.test.jsonl", "test.jsonl", "test.csv"),
            train=("train.json", "samsum.train.jsonl", "train.jsonl", "train.csv"),
            template="Dialogue:\n{{ input }}\n\nSummary:\n",
            metrics=("rougeL", "rouge1", "rouge2", "rougeLsum"),
            max_tokens=128,
            stop=("\n",),
            source="https://arxiv.org/abs/1911.12237",
            licence="CC-BY-NC-ND-4.0",
            comparable="ROUGE with Porter stemmer on all 819 test conversations. Early papers used "
            "pyrouge or other scripts, whose ROUGE-L is not ours.",
            example={
                "id": "1",
                "dialogue": "Ana: Running late!\nBo: No rush, film starts at 8.",
                "summary": "Ana is late, but the film does not start before 8.",
            },
        ),
        convert,
    ),
)
