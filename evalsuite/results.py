"""From answers to scores: every row of every task under every metric, and what is compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evalsuite.baselines import TrivialAnswers, trivial_answers
from evalsuite.metrics import score
from evalsuite.runner import Outcomes
from evalsuite.task import Task
from evalsuite.types import Outcome, Row, RowKind, Scores

TRIVIAL = Row("trivial", RowKind.TRIVIAL)


@dataclass(frozen=True)
class Cell:
    """One row on one task."""

    row: Row
    outcomes: tuple[Outcome, ...]
    """One per sample, in the task's order."""
    scores: Mapping[str, Scores]
    """By metric name, in the task's order."""


@dataclass(frozen=True)
class TaskResult:
    """One task: its cells by row label, baselines first."""

    task: Task
    trivial: TrivialAnswers | None
    cells: Mapping[str, Cell]

    def best_baseline(self, metric: str) -> Cell | None:
        """The baseline with the highest value; None if no baseline has one.

        Taking the best after seeing the scores makes a gain harder to claim, never easier.
        """
        baselines = [
            cell
            for cell in self.cells.values()
            if cell.row.kind is not RowKind.ADAPTER and cell.scores[metric].num_scored
        ]
        return max(baselines, key=lambda cell: cell.scores[metric].value, default=None)


def evaluate(
    tasks: Sequence[Task], rows: Sequence[Row], outcomes: Outcomes, seed: int
) -> tuple[TaskResult, ...]:
    """Scores all outcomes, and the trivial answers beside them."""
    return tuple(_evaluate(task, rows, outcomes, seed) for task in tasks)


def _evaluate(task: Task, rows: Sequence[Row], outcomes: Outcomes, seed: int) -> TaskResult:
    trivial = trivial_answers(task, seed)
    by_row = [(row, outcomes[task.name, row.label]) for row in rows]
    if trivial is not None:
        by_row.append((TRIVIAL, tuple(Outcome(answer) for answer in trivial.answers)))
    by_row.sort(key=lambda item: item[0].kind is RowKind.ADAPTER)
    return TaskResult(task, trivial, {row.label: _cell(task, row, found) for row, found in by_row})


def _cell(task: Task, row: Row, outcomes: tuple[Outcome, ...]) -> Cell:
    answers = [outcome.answer for outcome in outcomes]
    scores = {metric.name: score(metric, task.samples, answers) for metric in task.metrics}
    return Cell(row, outcomes, scores)
