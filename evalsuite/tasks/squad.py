"""SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018): answers that are spans of a passage.

Reads the authors' nested JSON, and JSON lines with Hugging Face's columns.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from evalsuite.data import DataRow, NumberedRow, read_json_rows, read_rows
from evalsuite.errors import InputError
from evalsuite.metrics import MetricOptions
from evalsuite.task import Definition, TaskSpec
from evalsuite.types import Sample

_NO_ANSWER = "unanswerable"


def question_rows(path: Path) -> Iterator[NumberedRow]:
    """One row per question, with its passage."""
    if path.suffix != ".json":
        yield from read_rows(path)
        return
    number = 0
    for _, values in read_json_rows(path, "data"):
        article = DataRow(values, str(path), "")
        for paragraph in article.mappings("paragraphs"):
            context = paragraph.text("context")
            for question in paragraph.mappings("qas"):
                number += 1
                yield number, {"context": context, **question}


def _golds(row: DataRow) -> list[str]:
    found: Any = row["answers"]
    if isinstance(found, dict):
        found = [{"text": text} for text in row.mapping("answers").texts("text", least=0)]
    elif isinstance(found, list):
        found = row.mappings("answers")
    else:
        raise InputError(f"{row.where}: 'answers' must be a list of objects with 'text'")
    return list(dict.fromkeys(DataRow(gold, row.where, row.id).text("text") for gold in found))


def convert(row: DataRow) -> Iterator[Sample]:
    """One question; those of a passage are one group."""
    context = row.text("context")
    golds = _golds(row) or [_NO_ANSWER]
    text = f"{context}\n\nQuestion: {row.text('question').strip()}"
    yield Sample(row.id, text, tuple(golds), group=context, completion=f" {golds[0]}")


_V1 = TaskSpec(
    name="squad",
    folder="squad",
    data=("dev-v1.1.json", "validation.jsonl"),
    train=("train-v1.1.json", "train.jsonl"),
    template="{{ input }}\nAnswer:",
    metrics=("token_f1", "squad_exact_match"),
    max_tokens=48,
    stop=("\n",),
    source="https://rajpurkar.github.io/SQuAD-explorer",
    licence="CC-BY-SA-4.0",
    comparable="The official script's F1 and EM divided by 100, on the development set. HELM's F1 "
    "compares sets of tokens and can differ.",
    example={
        "id": "1",
        "context": "The bridge opened in 1931.",
        "question": "When did the bridge open?",
        "answers": [{"text": "1931", "answer_start": 21}, {"text": "in 1931", "answer_start": 18}],
    },
)
TASKS = (
    Definition(_V1, convert, question_rows),
    Definition(
        replace(
            _V1,
            name="squad_v2",
            data=("dev-v2.0.json", "validation_v2.jsonl"),
            train=("train-v2.0.json", "train_v2.jsonl"),
            description=f"Answer '{_NO_ANSWER}' where the text does not tell.\n\n",
            options=MetricOptions(no_answer=_NO_ANSWER),
            comparable="The official script's F1 and EM divided by 100, with the answer "
            f"'{_NO_ANSWER}' taken as none; no threshold is tuned.",
            example={
                "id": "1",
                "context": "The bridge opened in 1931.",
                "question": "Who built the bridge?",
                "answers": [],
            },
        ),
        convert,
        question_rows,
    ),
)
