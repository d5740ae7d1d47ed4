"""BIG-bench (Srivastava et al. 2022): any JSON task, as `--tasks bigbench_mc=PATH/task.json`.

`bigbench_mc` takes tasks with `target_scores`, `bigbench_text` those with `target`.

Prompts are assembled as BIG-bench does: task prefix, input prefix, input, choices where the task
appends them, output prefix.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from evalsuite.data import DataRow, NumberedRow, read_json, read_json_rows
from evalsuite.errors import InputError
from evalsuite.task import Definition, TaskSpec
from evalsuite.types import Mode, Sample

_DEFAULTS: dict[str, Any] = {
    "name": "",
    "task_prefix": "",
    "example_input_prefix": "\nQ: ",
    "example_output_prefix": "\nA: ",
    "choice_prefix": "\n  choice: ",
    "append_choices_to_input": True,
}


def task_rows(path: Path) -> Iterator[NumberedRow]:
    """The examples of a task.json, each with the task's own settings; JSON lines hold both."""
    if path.suffix == ".jsonl":
        raise InputError(f"{path}: expected BIG-bench's task.json, found JSON lines")
    task = read_json(path)
    for number, example in read_json_rows(path, "examples"):
        settings = {key: task.get(key, default) for key, default in _DEFAULTS.items()}
        yield number, {**settings, **example}


def _sample(row: DataRow, choices: tuple[str, ...]) -> Sample:
    shown = choices if row["append_choices_to_input"] else ()
    text = row.text("example_input_prefix") + row.text("input")
    text += "".join(row.text("choice_prefix") + choice for choice in shown)
    prompt = row.text("task_prefix") + text + row.text("example_output_prefix")
    return Sample(row.id, prompt, (), category=row.text("name"))


def convert_choice(row: DataRow) -> Iterator[Sample]:
    """An example with `target_scores`: credit per choice, which need not be 0 or 1."""
    scores = row.mapping("target_scores")
    credit = [score for score in scores.values() if isinstance(score, int | float)]
    if len(credit) < len(scores) or not scores:
        raise InputError(f"{row.where}: 'target_scores' must map choices to numbers")
    choices = tuple(scores)
    target = max(range(len(credit)), key=lambda index: credit[index])
    yield replace(
        _sample(row, choices),
        references=(choices[target],),
        choices=choices,
        target=target,
        target_scores=tuple(float(score) for score in credit),
    )


def convert_text(row: DataRow) -> Iterator[Sample]:
    """An example with `target`: a text, or several that are all right."""
    targets = row.texts("target") if isinstance(row["target"], list) else (row.text("target"),)
    yield replace(_sample(row, ()), references=targets)


_CHOICE = TaskSpec(
    name="bigbench_mc",
    folder="bigbench",
    data="task.json",
    template="{{ input }}",
    separator="\n",
    metrics=("target_score", "accuracy"),
    mode=Mode.CHOICE,
    source="https://github.com/google/BIG-bench",
    licence="Apache-2.0",
    comparable="BIG-bench's multiple_choice_grade with conditional log-likelihoods. HELM shows "
    "letters and takes exact match on its own split; neither compares.",
    example={"input": "Which one flies?", "target_scores": {"a kite": 1, "a brick": 0}},
)
TASKS = (
    Definition(_CHOICE, convert_choice, task_rows),
    Definition(
        replace(
            _CHOICE,
            name="bigbench_text",
            metrics=("exact_match", "rougeL", "bleu"),
            mode=Mode.GENERATE,
            max_tokens=64,
            stop=("\n",),
            comparable="BIG-bench's exact_str_match, case-sensitive, on the first line. "
            "lm-evaluation-harness ignores punctuation and generates 128 tokens.",
            example={"input": "The opposite of up:", "target": ["down"]},
        ),
        convert_text,
        task_rows,
    ),
)
