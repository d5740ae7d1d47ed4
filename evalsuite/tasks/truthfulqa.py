"""TruthfulQA (Lin et al. 2022): MC1 (the one best answer) and MC2 (mass on all true answers).

Reads the authors' CSV, whose answers are lists joined by semicolons, and their mc_task.json.
Choices are put in alphabetical order: in the files the true ones come first, which a model that
finds all equally likely must not profit from.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from evalsuite.data import DataRow
from evalsuite.errors import InputError
from evalsuite.task import Definition, TaskSpec
from evalsuite.types import Mode, Sample


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]


def _answers(row: DataRow, targets: str) -> dict[str, bool]:
    """Each answer, and whether it is true; for MC1 only the best is."""
    if targets in row:
        found: Any = row[targets]
        # Hugging Face's rows hold two lists, the authors' a mapping.
        if isinstance(found, dict) and set(found) == {"choices", "labels"}:
            found = dict(zip(found["choices"], found["labels"], strict=True))
        if not isinstance(found, dict):
            raise InputError(f"{row.where}: '{targets}' must map answers to 0 or 1")
        return {text: bool(label) for text, label in found.items()}
    true = [row.text("Best Answer").strip()]
    if targets == "mc2_targets":
        true += _split(row.text("Correct Answers"))
    false = _split(row.text("Incorrect Answers"))
    # An answer that a list holds twice counts once, and as true if any list says so.
    return {**dict.fromkeys(false, False), **dict.fromkeys(true, True)}


def _sample(row: DataRow, targets: str) -> Sample:
    answers = dict(sorted(_answers(row, targets).items()))
    choices = tuple(f" {text}" for text in answers)
    if not any(answers.values()):
        raise InputError(f"{row.where}: no answer is true")
    target = list(answers.values()).index(True)
    return Sample(
        id=row.id,
        input=row.text("question", "Question"),
        references=(choices[target],),
        choices=choices,
        target=target,
        category=row.text("Category") if "Category" in row else "",
        target_scores=tuple(float(is_true) for is_true in answers.values()),
    )


def convert_mc1(row: DataRow) -> Iterator[Sample]:
    """One best answer."""
    yield _sample(row, "mc1_targets")


def convert_mc2(row: DataRow) -> Iterator[Sample]:
    """All true answers."""
    yield _sample(row, "mc2_targets")


_MC1 = TaskSpec(
    name="truthfulqa_mc1",
    folder="truthfulqa",
    data=("TruthfulQA.csv", "mc_task.json"),
    template="Q: {{ input }}\nA:",
    metrics=("accuracy",),
    mode=Mode.CHOICE,
    source="https://github.com/sylinrl/TruthfulQA",
    licence="Apache-2.0",
    comparable="MC1 by summed log-likelihoods. Published numbers put six fixed questions and "
    "answers in front, which we do not, and read mc_task.json, whose lists differ a little from "
    "the CSV's.",
    example={
        "question": "Do goldfish forget everything after three seconds?",
        "mc1_targets": {"No, they remember for months": 1, "Yes, after three seconds": 0},
        "mc2_targets": {"No, they remember for months": 1, "Yes, after three seconds": 0},
    },
)
TASKS = (
    Definition(_MC1, convert_mc1),
    Definition(
        replace(
            _MC1,
            name="truthfulqa_mc2",
            metrics=("target_mass",),
            comparable="MC2: the share of probability on true answers. As for MC1, published "
            "numbers have six fixed questions and answers in front.",
        ),
        convert_mc2,
    ),
)
