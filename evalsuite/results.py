"""From answers to scores: every row of every task under every metric, and what is compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evalsuite.answers import Made
from evalsuite.baselines import TrivialAnswers, trivial_answers
from evalsuite.metrics import SumMetric, sample_groups
from evalsuite.runner import Outcomes
from evalsuite.task import Task
from evalsuite.types import Floats, Ints, Outcome, Row, RowKind, Scores

TRIVIAL = Row("trivial", RowKind.TRIVIAL)


@dataclass(frozen=True)
class Totals:
    """What a cell's outcomes come to, beside the scores. Means are over the scored samples."""

    num_scored: int
    num_unscored: int
    first_refusal: str | None
    mean_shots: float
    mean_prompt_tokens: float
    mean_completion_tokens: float


@dataclass(frozen=True)
class Cell:
    """One row on one task."""

    row: Row
    outcomes: Sequence[Outcome]
    """One per sample, in the task's order; may be read from the log at each look."""
    scores: Mapping[str, Scores]
    """By metric name, in the task's order."""
    totals: Totals


@dataclass(frozen=True)
class TaskResult:
    """One task: its cells by row label, baselines first."""

    task: Task
    trivial: TrivialAnswers | None
    cells: Mapping[str, Cell]

    def best_baseline(self, candidate: Cell, metric: str) -> Cell | None:
        """The baseline with the best value over the samples that it, the other baselines and the
        candidate have all scored; None if none shares a sample with the candidate. A baseline that
        would leave no common sample is no rival; those with more scored samples come first.

        Taking the best after seeing the scores makes a gain harder to claim, never easier.
        """
        baselines = [cell for cell in self.cells.values() if cell.row.kind is not RowKind.ADAPTER]
        baselines.sort(key=lambda cell: -cell.scores[metric].num_scored)
        common = candidate.scores[metric].scored
        rivals = []
        for cell in baselines:
            both = common & cell.scores[metric].scored
            if both.any():
                common = both
                rivals.append(cell)
        sign = 1 if candidate.scores[metric].metric.higher_is_better else -1
        return max(
            rivals, key=lambda cell: sign * cell.scores[metric].value_over(common), default=None
        )


def evaluate(
    tasks: Sequence[Task], rows: Sequence[Row], outcomes: Outcomes, seed: int
) -> tuple[TaskResult, ...]:
    """Scores all outcomes, and the trivial answers beside them."""
    return tuple(_evaluate(task, rows, outcomes, seed) for task in tasks)


def _evaluate(task: Task, rows: Sequence[Row], outcomes: Outcomes, seed: int) -> TaskResult:
    trivial = trivial_answers(task, seed)
    by_row = [(row, outcomes[task.name, row.label]) for row in rows]
    if trivial is not None:
        answers = trivial.answers
        by_row.append((TRIVIAL, Made(len(answers), lambda index: Outcome(answers[index]))))
    by_row.sort(key=lambda item: item[0].kind is RowKind.ADAPTER)
    groups = sample_groups(task.samples)
    return TaskResult(
        task, trivial, {row.label: _cell(task, row, found, groups) for row, found in by_row}
    )


def _cell(task: Task, row: Row, outcomes: Sequence[Outcome], groups: Ints | None) -> Cell:
    """Scores under all metrics in one pass over the outcomes."""
    num = len(outcomes)
    scored = np.zeros(num, dtype=np.bool_)
    statistics: dict[str, Floats] = {metric.name: np.zeros((num, 1)) for metric in task.metrics}
    sums = np.zeros(3)
    first_refusal: str | None = None
    for index, (sample, outcome) in enumerate(zip(task.samples, outcomes, strict=True)):
        sums[0] += outcome.shots
        answer = outcome.answer
        if answer is None:
            first_refusal = outcome.refusal if first_refusal is None else first_refusal
            continue
        sums[1:] += answer.num_prompt_tokens, answer.num_completion_tokens
        for metric in task.metrics:
            values = metric.statistics(sample, answer)
            if statistics[metric.name].shape[1] != len(values):
                statistics[metric.name] = np.zeros((num, len(values)))
            statistics[metric.name][index] = values
        scored[index] = True
    num_scored = int(scored.sum())
    totals = Totals(
        num_scored=num_scored,
        num_unscored=num - num_scored,
        first_refusal=first_refusal,
        mean_shots=float(sums[0] / num),
        mean_prompt_tokens=float(sums[1] / max(1, num_scored)),
        mean_completion_tokens=float(sums[2] / max(1, num_scored)),
    )
    for metric in task.metrics:
        if isinstance(metric, SumMetric) and metric.combine is not None and num_scored:
            answered = [task.samples[int(index)] for index in np.flatnonzero(scored)]
            found = statistics[metric.name]
            found[scored] = metric.combine(answered, found[scored])
    scores = {m.name: Scores(m, statistics[m.name], scored, groups) for m in task.metrics}
    return Cell(row, outcomes, scores, totals)
