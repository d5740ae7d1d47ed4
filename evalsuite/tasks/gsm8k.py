"""GSM8K (Cobbe et al. 2021): word problems whose solution ends in `#### NUMBER`."""

from collections.abc import Iterator

from evalsuite.data import DataRow
from evalsuite.errors import InputError
from evalsuite.metrics import MetricOptions
from evalsuite.task import Definition, TaskSpec
from evalsuite.types import Sample


def convert(row: DataRow) -> Iterator[Sample]:
    """The number is what counts; worked examples show the whole solution."""
    solution = row.text("answer")
    _, mark, number = solution.rpartition("####")
    if not mark or not number.strip():
        raise InputError(f"{row.where}: 'answer' has no '#### NUMBER' at its end")
    yield Sample(row.id, row.text("question"), (number.strip(),), completion=f" {solution}")


TASKS = (
    Definition(
        TaskSpec(
            name="gsm8k",
            folder="gsm8k",
            data="test.jsonl",
            train="train.jsonl",
            template="Question: {{ input }}\nAnswer:",
            metrics=("exact_match", "exact_match_last_number"),
            max_tokens=320,
            stop=("Question:",),
            options=MetricOptions(extract=r"####\s*([-$]?[0-9][0-9.,]*)", numbers=True),
            source="https://github.com/openai/grade-school-math",
            licence="MIT",
            comparable="exact_match is the number behind '####' (lm-evaluation-harness's strict "
            "match, 5 shots), exact_match_last_number the last one anywhere. Chain-of-thought "
            "numbers of 8 hand-written shots use other prompts.",
            example={
                "question": "Kim has 3 boxes of 4 pens. How many pens?",
                "answer": "3 * 4 = <<3*4=12>>12 pens.\n#### 12",
            },
        ),
        convert,
    ),
)
