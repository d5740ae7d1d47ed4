"""MMLU (Hendrycks et al. 2021) in three prompts that give three different numbers.

`mmlu_original` is the authors' evaluation, `mmlu` lm-evaluation-harness's, `mmlu_helm` HELM's. All
take five shots from the subject's own development set: the first five in order, HELM's drawn by
seed. Five of those 285 questions are test questions too; they stay, as in published numbers.
`accuracy` is the mean over questions (micro), `accuracy_macro` over the 57 subjects.

Reads the authors' CSV (six cells, no header, a letter at the end), CSV with the header
`question,choice0,...,choice3,answer`, and JSON lines with Hugging Face's columns.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from evalsuite.data import DataRow, NumberedRow, read_rows, read_table, read_text
from evalsuite.task import Definition, ShotRule, TaskSpec
from evalsuite.types import Mode, Sample

_COLUMNS = ("question", "choice0", "choice1", "choice2", "choice3", "answer")


def subject_rows(path: Path) -> Iterator[NumberedRow]:
    """Rows with their subject, which is the file's name where no column names it."""
    subject = path.stem.removesuffix("_test").removesuffix("_dev").removesuffix("_val")
    if path.suffix == ".csv":
        headed = read_text(path).startswith("question,choice0,")
        rows = read_table(path, ",", () if headed else _COLUMNS)
    else:
        rows = read_rows(path)
    for number, row in rows:
        yield number, {"subject": subject, **row}


def convert(row: DataRow) -> Iterator[Sample]:
    """One question; its options become lettered lines."""
    if "choices" in row:
        options = row.texts("choices", least=2)
    else:
        options = tuple(row.text(name) for name in _COLUMNS[1:5])
    target = row.label("answer", "ABCD"[: len(options)])
    subject = row.text("subject")
    yield Sample(
        id=row.id,
        input=row.text("question"),
        references=(options[target],),
        choices=options,
        target=target,
        category=subject,
        fields={"subject": subject.replace("_", " ")},
    )


def _stripped(row: DataRow) -> Iterator[Sample]:
    yield from (replace(sample, input=sample.input.strip()) for sample in convert(row))


_HEADER = "The following are multiple choice questions (with answers) about {{ subject }}.\n\n"
_HARNESS = TaskSpec(
    name="mmlu",
    folder="mmlu",
    data=("test/*_test.csv", "data/test/*_test.csv", "test.jsonl"),
    train=("dev/*_dev.csv", "data/dev/*_dev.csv", "dev.jsonl"),
    description=_HEADER,
    template="{{ input }}\nAnswer:",
    metrics=("accuracy", "accuracy_macro"),
    mode=Mode.LETTER,
    shots=ShotRule(draw="first", same_category=True, held_out=False),
    source="https://github.com/hendrycks/test",
    licence="MIT",
    comparable="lm-evaluation-harness's mmlu (micro average, weight_by_size) with 5 shots and no "
    "chat template. Llama's model cards give macro averages.",
    example={
        "question": "Which is a mammal?",
        "choices": ["Trout", "Bat", "Wren", "Newt"],
        "answer": 1,
        "subject": "high_school_biology",
    },
)

TASKS = (
    Definition(_HARNESS, _stripped, subject_rows),
    Definition(
        replace(
            _HARNESS,
            name="mmlu_original",
            description=_HEADER.replace("about ", "about  "),
            comparable="The authors' evaluate.py with 5 shots: two spaces before the subject, as "
            "there. It looks letters up among the 100 likeliest tokens; we score each exactly.",
        ),
        convert,
        subject_rows,
    ),
    Definition(
        replace(
            _HARNESS,
            name="mmlu_helm",
            mode=Mode.GENERATE,
            template="Question: {{ input }}\nAnswer:",
            metrics=("exact_match", "accuracy_macro"),
            max_tokens=5,
            stop=("\n",),
            shots=ShotRule(draw="seed", same_category=True, held_out=False),
            comparable="HELM's joint multiple choice: a generated letter, exact match, the mean "
            "over subjects. HELM draws its shots with its own generator, so single answers differ.",
        ),
        _stripped,
        subject_rows,
    ),
)
