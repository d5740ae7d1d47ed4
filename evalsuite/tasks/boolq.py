"""BoolQ (Clark et al. 2019): yes/no questions about a passage.

Reads the authors' files (`answer`) and SuperGLUE's (`label`).
"""

from collections.abc import Iterator

from evalsuite.data import DataRow
from evalsuite.task import Definition, TaskSpec
from evalsuite.types import Mode, Sample

_CHOICES = (" no", " yes")


def convert(row: DataRow) -> Iterator[Sample]:
    """One sample per question; those of a passage are one group."""
    passage, question = row.text("passage"), row.text("question").strip()
    target = row.label(row.first("answer", "label"), ("false", "true"))
    text = f"{passage}\n\nQuestion: {question.removesuffix('?')}?"
    yield Sample(row.id, text, (_CHOICES[target],), _CHOICES, target, group=passage)


TASKS = (
    Definition(
        TaskSpec(
            name="boolq",
            folder="boolq",
            data=("dev.jsonl", "val.jsonl", "BoolQ/val.jsonl", "validation.jsonl"),
            train=("train.jsonl", "BoolQ/train.jsonl"),
            template="{{ input }}\nAnswer:",
            metrics=("accuracy",),
            mode=Mode.CHOICE,
            choices=_CHOICES,
            source="https://github.com/google-research-datasets/boolean-questions",
            licence="CC-BY-SA-3.0",
            comparable="Accuracy on the 3,270 development questions; prompts differ by harness.",
            example={
                "question": "is the moon a planet",
                "passage": "The Moon is Earth's only natural satellite.",
                "answer": False,
                "title": "Moon",
            },
        ),
        convert,
    ),
)
