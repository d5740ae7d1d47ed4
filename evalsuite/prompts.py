"""Prompts for the bare base: the task's template, behind a number of worked examples.

Shots are drawn once per task and seed, and are the same for every sample (as in HELM), so the
server can share their prefix. In mode choice every class gets its turn.
"""

import random
from collections import defaultdict
from collections.abc import Sequence

from evalsuite.errors import InputError
from evalsuite.task import Task
from evalsuite.types import Mode, Sample

# Between worked examples; also what keeps the last completion apart from the question.
SEPARATOR = "\n\n"


def draw_shots(task: Task, num_shots: int, seed: int) -> tuple[Sample, ...]:
    """`num_shots` distinct training samples, balanced over the right choices in mode choice.

    Raises InputError if the task has no training file, or one with too few rows.
    """
    if not num_shots:
        return ()
    if task.spec.train is None:
        raise InputError(
            f"--shots {num_shots}: task '{task.name}' names no training file to draw from "
            "(field 'train'); use --shots 0"
        )
    if num_shots > len(task.train):
        raise InputError(
            f"--shots {num_shots}: task '{task.name}' has only {len(task.train)} training rows"
        )
    rng = random.Random(f"{seed}:{task.name}")
    if task.spec.mode is Mode.GENERATE:
        return tuple(rng.sample(task.train, num_shots))
    groups: dict[int | None, list[Sample]] = defaultdict(list)
    for sample in rng.sample(task.train, len(task.train)):
        groups[sample.target].append(sample)
    order = rng.sample(sorted(groups, key=str), len(groups))
    drawn: list[Sample] = []
    while len(drawn) < num_shots:
        drawn += [groups[target].pop() for target in order if groups[target]]
    drawn = drawn[:num_shots]
    rng.shuffle(drawn)
    return tuple(drawn)


def few_shot_prompt(task: Task, shots: Sequence[Sample], sample: Sample) -> str:
    """The shots, each as template and completion, then the sample's template."""
    parts = [task.prompt(shot) + completion(shot) for shot in shots]
    return SEPARATOR.join([*parts, task.prompt(sample)])


def completion(sample: Sample) -> str:
    """What a perfect model writes after the prompt, verbatim."""
    return sample.references[0] if sample.target is None else sample.choices[sample.target]
