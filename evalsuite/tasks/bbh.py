"""BIG-Bench Hard (Suzgun et al. 2022): 27 files of `{"input", "target"}` examples.

`bbh` asks for the answer alone, `bbh_cot` puts the authors' worked reasoning (`cot-prompts/`) in
front. A task's name is its category, so `accuracy_macro` is the mean over tasks.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from evalsuite.data import DataRow, NumberedRow, read_json_rows, read_text
from evalsuite.errors import InputError
from evalsuite.metrics import MetricOptions
from evalsuite.task import Definition, TaskSpec
from evalsuite.types import Sample

_CANARY_END = "-----\n"


def examples(path: Path) -> Iterator[NumberedRow]:
    """The examples of one task, with its name."""
    for number, row in read_json_rows(path, "examples"):
        yield number, {"task": path.stem, **row}


def reasoned(path: Path) -> Iterator[NumberedRow]:
    """The same, with the authors' worked examples of the task."""
    prompt = path.parent.parent / "cot-prompts" / f"{path.stem}.txt"
    if not prompt.is_file():
        raise InputError(
            f"{prompt}: no such file, and {path.name} needs its worked examples; add it, or name "
            "single files: --tasks bbh_cot=FILE.json"
        )
    text = read_text(prompt).rpartition(_CANARY_END)[2].strip()
    for number, row in examples(path):
        yield number, {"cot": text, **row}


def convert(row: DataRow) -> Iterator[Sample]:
    """The answer alone, behind a space."""
    target = row.text("target").strip()
    yield Sample(
        row.id, row.text("input"), (target,), category=row.text("task"), completion=f" {target}"
    )


def convert_reasoned(row: DataRow) -> Iterator[Sample]:
    """The answer as the worked examples end."""
    for sample in convert(row):
        closing = f"\nSo the answer is {sample.references[0]}."
        yield replace(sample, completion=closing, fields={"cot": row.text("cot")})


_DIRECT = TaskSpec(
    name="bbh",
    folder="bbh",
    data=("bbh/*.json", "*.json"),
    template="Q: {{ input }}\nA:",
    metrics=("exact_match", "accuracy_macro"),
    max_tokens=64,
    stop=("\n",),
    source="https://github.com/suzgunmirac/BIG-Bench-Hard",
    licence="MIT",
    comparable="Exact match without examples. The paper's answer-only numbers have three; its mean "
    "is over tasks (accuracy_macro).",
    example={"input": "not ( True and False ) is", "target": "True"},
)
TASKS = (
    Definition(_DIRECT, convert, examples),
    Definition(
        replace(
            _DIRECT,
            name="bbh_cot",
            template="{{ cot }}\n\nQ: {{ input }}\nA: Let's think step by step.",
            max_tokens=512,
            stop=("\n\nQ:",),
            options=MetricOptions(extract=r"the answer is (.*?)\.?(?:\n|$)"),
            comparable="The paper's three-shot chain of thought with the authors' prompts; exact "
            "match of what follows 'the answer is', the mean over tasks (accuracy_macro).",
        ),
        convert_reasoned,
        reasoned,
    ),
)
