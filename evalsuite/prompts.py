"""Prompts for the bare base: the task's template, behind a number of worked examples.

Shots are drawn once per task and seed, and are the same for every sample (as in HELM), or for
every sample of a category, so the server can share their prefix. Where there are choices every
class gets its turn.
"""

import random
from collections import defaultdict
from collections.abc import Sequence

from evalsuite.errors import InputError
from evalsuite.task import Task
from evalsuite.types import Mode, Request, Row, RowKind, Sample
from understudy.prompt import MESSAGES


def draw_shots(task: Task, num_shots: int, seed: int, category: str = "") -> tuple[Sample, ...]:
    """`num_shots` distinct training samples, balanced over the right choices.

    `category` counts only in tasks whose shots are of the sample's own. Raises InputError if the
    task has no training file, or one with too few rows.
    """
    if not num_shots or (task.spec.mode is Mode.LIKELIHOOD and task.train_sha256 is None):
        # A text that is weighed as it stands needs no example to follow.
        return ()
    if task.train_sha256 is None:
        missing = "names no training file" if task.spec.train is None else "found no training file"
        raise InputError(
            f"--shots {num_shots}: task '{task.name}' {missing} to draw from "
            "(field 'train'); use --shots 0"
        )
    rows, of_category = task.train, ""
    indices: Sequence[int] = range(len(rows))
    if task.spec.shots.same_category:
        indices = rows.of_category(category)
        of_category = f" of category '{category}'"
    if num_shots > len(indices):
        raise InputError(
            f"--shots {num_shots}: task '{task.name}' has only {len(indices)} training rows"
            + of_category
        )
    if task.spec.shots.draw == "first":
        return tuple(rows[index] for index in indices[:num_shots])
    rng = random.Random(f"{seed}:{task.spec.name}{of_category}")
    if task.spec.mode.answered_as is not Mode.CHOICE:
        return tuple(rows[index] for index in rng.sample(indices, num_shots))
    groups: dict[int | None, list[int]] = defaultdict(list)
    for index in rng.sample(indices, len(indices)):
        groups[rows.target(index)].append(index)
    order = rng.sample(sorted(groups, key=str), len(groups))
    drawn: list[int] = []
    while len(drawn) < num_shots:
        drawn += [groups[target].pop() for target in order if groups[target]]
    drawn = drawn[:num_shots]
    rng.shuffle(drawn)
    return tuple(rows[index] for index in drawn)


class ShotPool:
    """The shots of one task, by category where that decides them."""

    def __init__(self, task: Task, num_shots: int, seed: int) -> None:
        """Draws for all categories of the samples. Raises InputError as draw_shots does."""
        self._by_category = task.spec.shots.same_category
        names = {self._key(sample) for sample in task.samples}
        self._drawn = {name: draw_shots(task, num_shots, seed, name) for name in sorted(names)}

    def _key(self, sample: Sample) -> str:
        return sample.category if self._by_category else ""

    def of(self, sample: Sample) -> tuple[Sample, ...]:
        """The shots in this sample's prompt."""
        return self._drawn[self._key(sample)]


def few_shot_prompt(
    task: Task, shots: Sequence[Sample], sample: Sample, text: str | None = None
) -> str:
    """The description, the shots as template and completion, then the sample's template.

    `text` stands in the place of the sample's input.
    """
    parts = [task.prompt(shot, _right_context(shot)) + shot.right for shot in shots]
    prompt = task.spec.separator.join([*parts, task.prompt(sample, text)])
    return task.description(sample) + prompt


def _right_context(sample: Sample) -> str | None:
    return sample.contexts[sample.target or 0] if sample.contexts else None


def build_request(task: Task, row: Row, shots: Sequence[Sample], sample: Sample) -> Request:
    """What a row is asked about a sample.

    The base gets the prompt, an adapter the bare input for its own template, with those of the
    sample's fields that it names. In mode likelihood
    both get the prompt: the text is weighed as it stands.
    """
    spec = task.spec
    raw = row.kind is not RowKind.ADAPTER or spec.mode is Mode.LIKELIHOOD
    inputs = sample.contexts or (sample.input,)
    if raw:
        inputs = tuple(
            few_shot_prompt(task, shots, sample, text if sample.contexts else None)
            for text in inputs
        )
    generate = spec.mode is Mode.GENERATE
    text_variables, fields = ((), {}) if raw else _named(task, row, sample)
    return Request(
        adapter=row.reference,
        text="" if sample.contexts else inputs[0],
        raw=raw,
        max_tokens=spec.max_tokens if generate else 0,
        stop=spec.stop if generate else (),
        choices=sample.choices,
        contexts=inputs if sample.contexts else (),
        unconditional=spec.unconditional if "accuracy_unconditional" in spec.metrics else None,
        text_variables=text_variables,
        fields=fields,
    )


def _named(task: Task, row: Row, sample: Sample) -> tuple[tuple[str, ...], dict[str, str]]:
    """Names of the adapter's variables that the input fills, and values of its others.

    Both are empty where a plain text fills its template. Raises InputError for a variable that the
    task does not know.
    """
    inputs = [name for name in row.variables if name in task.spec.columns.input_names]
    others = [name for name in row.variables if name not in inputs]
    fields = {name: sample.fields[name] for name in others if name in sample.fields}
    if (len(row.variables) < 2 and not fields) or MESSAGES in others:
        return (), {}
    if missing := [name for name in others if name not in fields]:
        raise InputError(
            f"task '{task.name}': the template of adapter '{row.label}' reads "
            f"{', '.join(row.variables)}, but the task has no {', '.join(missing)}; name the "
            "columns in columns.fields"
        )
    return tuple(inputs), fields
