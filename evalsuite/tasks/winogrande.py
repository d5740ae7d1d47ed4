"""WinoGrande (Sakaguchi et al. 2019): which of two names fills the gap.

Scored as lm-evaluation-harness does: the text up to the gap with either name is the context, the
rest of the sentence the continuation. The test set's labels are hidden.
"""

from collections.abc import Iterator

from evalsuite.data import DataRow
from evalsuite.errors import InputError
from evalsuite.task import Definition, TaskSpec
from evalsuite.types import Mode, Sample


def convert(row: DataRow) -> Iterator[Sample]:
    """Twin sentences are one group."""
    sentence = row.text("sentence")
    before, gap, after = sentence.partition("_")
    if not gap or not after.strip():
        raise InputError(f"{row.where}: 'sentence' has no gap '_' with text behind it")
    options = (row.text("option1"), row.text("option2"))
    key = row.text("answer")
    if key not in ("1", "2"):
        raise InputError(f"{row.where}: 'answer' is '{key}', expected 1 or 2 (hidden in test sets)")
    target = int(key) - 1
    rest = f" {after.strip()}"
    name = row.text("qID") if "qID" in row else ""
    yield Sample(
        id=row.id,
        input=sentence,
        references=(rest,),
        choices=(rest, rest),
        target=target,
        group=name.rpartition("-")[0],
        contexts=tuple(before + option for option in options),
    )


TASKS = (
    Definition(
        TaskSpec(
            name="winogrande",
            folder="winogrande",
            data=("dev.jsonl", "winogrande_1.1/dev.jsonl"),
            train=("train_xl.jsonl", "winogrande_1.1/train_xl.jsonl"),
            template="{{ input }}",
            metrics=("accuracy",),
            mode=Mode.CHOICE,
            source="https://winogrande.allenai.org",
            licence="CC-BY-4.0",
            comparable="lm-evaluation-harness's winogrande on the 1,267 development sentences "
            "(5 shots on the old Open LLM Leaderboard).",
            example={
                "qID": "MADEUP-1",
                "sentence": "The vase did not fit in the box because the _ was too small.",
                "option1": "vase",
                "option2": "box",
                "answer": "2",
            },
        ),
        convert,
    ),
)
