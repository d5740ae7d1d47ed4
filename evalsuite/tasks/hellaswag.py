"""HellaSwag (Zellers et al. 2019): which of four endings goes on. Test labels are hidden."""

import re
from collections.abc import Iterator

from evalsuite.data import DataRow
from evalsuite.task import Definition, TaskSpec
from evalsuite.types import Mode, Sample

_BRACKETS = re.compile(r"\[.*?\]")


def cleaned(text: str) -> str:
    """WikiHow's `[title]` becomes a full stop, other marks in brackets go."""
    return _BRACKETS.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def convert(row: DataRow) -> Iterator[Sample]:
    """Activity, context and endings; those of one source are one group."""
    second = row.text("ctx_b")
    context = f"{row.text('ctx_a')} {second[:1].upper()}{second[1:].lower()}"
    choices = tuple(f" {cleaned(ending)}" for ending in row.texts("endings", least=2))
    target = row.index("label", len(choices))
    yield Sample(
        id=row.id,
        input=cleaned(f"{row.text('activity_label')}: {context}"),
        references=(choices[target],),
        choices=choices,
        target=target,
        group=row.text("source_id") if "source_id" in row else "",
        category=row.text("split_type") if "split_type" in row else "",
    )


TASKS = (
    Definition(
        TaskSpec(
            name="hellaswag",
            folder="hellaswag",
            data=("hellaswag_val.jsonl", "validation.jsonl"),
            train=("hellaswag_train.jsonl", "train.jsonl"),
            template="{{ input }}",
            metrics=("accuracy_per_char", "accuracy", "accuracy_per_byte"),
            mode=Mode.CHOICE,
            source="https://github.com/rowanz/hellaswag",
            licence="MIT",
            comparable="Validation set with lm-evaluation-harness's clean-up: accuracy_per_char is "
            "its acc_norm (10 shots on the old Open LLM Leaderboard), accuracy its acc.",
            example={
                "ind": 1,
                "activity_label": "Making tea",
                "ctx_a": "A woman fills a kettle.",
                "ctx_b": "she",
                "ctx": "A woman fills a kettle. she",
                "split_type": "indomain",
                "label": 0,
                "endings": ["sets it on the stove.", "flies away.", "eats it.", "paints it."],
                "source_id": "made~up",
            },
        ),
        convert,
    ),
)
