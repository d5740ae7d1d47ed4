"""Answers that need no model: one constant for all, or a copy of the input.

An adapter that does not beat these has learned nothing about the task. The constant comes from
training data; which of the two counts is decided on the test samples, in their favour.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from evalsuite.answers import Made
from evalsuite.metrics import score
from evalsuite.task import Task
from evalsuite.types import Answer, Mode, Sample

# Enough to find a good constant; the search costs their product in metric computations.
_NUM_CANDIDATES = 32
_NUM_TRAINING_SAMPLES = 64


@dataclass(frozen=True)
class TrivialAnswers:
    """The better trivial baseline of a task."""

    kind: str
    """`constant` or `copy`."""
    text: str
    """The constant; empty for a copy."""
    answers: Sequence[Answer]
    """One per test sample."""


def trivial_answers(task: Task, seed: int) -> TrivialAnswers | None:
    """The better of constant and copy by the primary metric; None if the task allows neither."""
    candidates = []
    if task.spec.mode is Mode.LIKELIHOOD:
        return None
    if task.train:
        candidates.append(
            _majority(task) if task.spec.mode.answered_as is Mode.CHOICE else _constant(task, seed)
        )
    if task.spec.mode is Mode.GENERATE:
        candidates.append(TrivialAnswers("copy", "", _copies(task.samples)))
    metric = task.metrics[0]
    sign = 1 if metric.higher_is_better else -1
    return max(
        candidates,
        key=lambda trivial: sign * score(metric, task.samples, trivial.answers).value,
        default=None,
    )


def _copies(samples: Sequence[Sample]) -> Sequence[Answer]:
    return Made(len(samples), lambda index: Answer(text=samples[index].input))


def _majority(task: Task) -> TrivialAnswers:
    """The most frequent right choice of the training file."""
    target = task.train.most_common_target()
    samples = task.samples

    def taken(options: Sequence[str]) -> str:
        # Rows may have different numbers of choices.
        return options[min(target, len(options) - 1)]

    def answer(index: int) -> Answer:
        return Answer(text=taken(samples[index].options))

    text = taken(task.train[0].choices)
    return TrivialAnswers("constant", text, Made(len(samples), answer))


def _constant(task: Task, seed: int) -> TrivialAnswers:
    """The training completion that scores best against other training rows.

    Tried are the most frequent completion and a seeded draw of others.
    """
    rng = random.Random(f"{seed}:{task.spec.name}:trivial")
    drawn = rng.sample(range(len(task.train)), min(_NUM_CANDIDATES - 1, len(task.train)))
    texts = [task.train[index].right for index in drawn]
    candidates = dict.fromkeys([task.train.most_common_completion(), *texts])
    rows = rng.sample(task.train, min(_NUM_TRAINING_SAMPLES, len(task.train)))

    metric = task.metrics[0]
    sign = 1 if metric.higher_is_better else -1

    def value(text: str) -> float:
        return sign * score(metric, rows, [Answer(text=text)] * len(rows)).value

    best = max(candidates, key=value)
    return TrivialAnswers("constant", best, (Answer(text=best),) * len(task.samples))
