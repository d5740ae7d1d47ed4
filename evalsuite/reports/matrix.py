"""Adapter x task: what each row gained on its own task and what it forgot elsewhere.

R[i][j] is the value of row i on task j, row 0 the bare base. Forgetting of row i on a task that is
not its own is R[0][j] - R[i][j]. For rows trained one after the other, backward transfer is the
mean over earlier tasks of R[T][j] - R[j][j] (Lopez-Paz and Ranzato 2017, arXiv 1706.08840), and
forgetting the mean of max over earlier rows of R[l][j] - R[T][j] (Chaudhry et al. 2018, arXiv
1801.10112). Gains are turned so that more is better, also where the metric is an error.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import fmean

from evalsuite.errors import InputError, nearest
from evalsuite.report import signature
from evalsuite.results import TaskResult
from evalsuite.session import Models
from evalsuite.stats import (
    Comparison,
    Correction,
    TestConfig,
    adjusted_by_key,
    compare,
    value_interval,
)
from evalsuite.types import Metric, Row, RowKind


class Finding(StrEnum):
    """What a cell shows at the level, after correction over the matrix."""

    GAIN = "gain"
    LOSS = "loss"
    UNCLEAR = "unclear"
    """Neither; a change below the minimum detectable effect would rarely show."""
    UNSCORED = "unscored"


@dataclass(frozen=True)
class MatrixSettings:
    """How a matrix is made."""

    tests: TestConfig
    correction: Correction
    own: Mapping[str, str]
    """Row label -> the task it was trained for."""
    sequence: tuple[str, ...] = ()
    """Row labels in the order of their training, each going on from the one before."""


@dataclass(frozen=True)
class MatrixCell:
    """One row on one task, beside the base."""

    value: float
    ci_low: float
    ci_high: float
    comparison: Comparison
    """With the base; more is better."""
    p_adjusted: float
    finding: Finding
    signature: str


@dataclass(frozen=True)
class RowSummary:
    """A row over all tasks, in points: hundredths of each metric's best value.

    Tasks whose metric has no best value, such as bits per byte, stand in their own column only.
    """

    own_task: str | None
    own_gain: float
    mean_loss: float
    """Over tasks that are not its own; negative where it gained."""
    worst_loss: float
    worst_task: str | None
    num_losses: int
    """Cells that are shown to be losses."""


@dataclass(frozen=True)
class SequenceSummary:
    """Rows trained one after the other, in points."""

    order: tuple[str, ...]
    backward_transfer: float
    standard_error: float
    """Of the backward transfer; tasks are independent of each other."""
    forgetting: float


@dataclass(frozen=True)
class Matrix:
    """The whole table."""

    base: str
    rows: tuple[Row, ...]
    """The base first."""
    results: tuple[TaskResult, ...]
    cells: Mapping[tuple[str, str], MatrixCell]
    """By row label and task name; the base is in none."""
    summaries: Mapping[str, RowSummary]
    sequence: SequenceSummary | None
    settings: MatrixSettings

    @property
    def num_tests(self) -> int:
        """Tests of adapters that were corrected together; without adapters, those in context."""
        asked, in_context = families(self.rows[1:])
        return sum(
            not math.isnan(cell.comparison.p)
            for (label, _), cell in self.cells.items()
            if label in (asked or in_context)
        )


def build_matrix(
    results: Sequence[TaskResult], models: Models, settings: MatrixSettings, seed: int
) -> Matrix:
    """The matrix of an evaluation.

    Raises InputError without a base row, or if --own or --sequence name what was not asked.
    """
    rows = [c.row for c in results[0].cells.values() if c.row.kind is not RowKind.TRIVIAL]
    base = next((row for row in rows if row.kind is RowKind.BASE and not row.server), None)
    if base is None:
        raise InputError("--adapters: a matrix needs 'base' as its row 0")
    rows = [base, *(row for row in rows if row is not base)]
    settings = _checked(settings, rows, results)
    found: dict[tuple[str, str], Comparison] = {}
    for result in results:
        metric = result.task.metrics[0]
        for row in rows[1:]:
            ours = result.cells[row.label].scores[metric.name]
            theirs = result.cells[base.label].scores[metric.name]
            compared = compare(ours, theirs, settings.tests)
            found[row.label, result.task.name] = oriented(compared, metric)
    p_adjusted: dict[tuple[str, str], float] = {}
    for family in families(rows[1:]):
        p_values = {key: c.p for key, c in found.items() if key[0] in family}
        p_adjusted |= adjusted_by_key(p_values, settings.correction)
    cells = {}
    for result in results:
        for row in rows[1:]:
            key = (row.label, result.task.name)
            cell = result.cells[row.label]
            scores = cell.scores[result.task.metrics[0].name]
            interval = value_interval(scores, settings.tests.bootstrap)
            cells[key] = MatrixCell(
                value=scores.value,
                ci_low=interval.low,
                ci_high=interval.high,
                comparison=found[key],
                p_adjusted=p_adjusted[key],
                finding=_finding(found[key], p_adjusted[key], settings.tests.alpha),
                signature=signature(
                    result, cell, scores.metric.signature, models[row.server], seed
                ),
            )
    summaries = {row.label: _summary(row.label, results, cells, settings) for row in rows[1:]}
    sequence = _sequence(results, settings) if settings.sequence else None
    return Matrix(base.label, tuple(rows), tuple(results), cells, summaries, sequence, settings)


def families(rows: Sequence[Row]) -> tuple[set[str], set[str]]:
    """Labels of rows whose tests are corrected together: those that are asked about, and the bare
    base with worked examples, which stands beside them and costs them nothing."""
    in_context = {row.label for row in rows if row.kind is RowKind.BASE and not row.server}
    return {row.label for row in rows} - in_context, in_context


def oriented(comparison: Comparison, metric: Metric) -> Comparison:
    """The comparison with more being better."""
    if metric.higher_is_better:
        return comparison
    return replace(
        comparison,
        diff=-comparison.diff,
        ci_low=-comparison.ci_high,
        ci_high=-comparison.ci_low,
    )


def own_tasks(
    labels: Sequence[str], tasks: Sequence[str], given: Mapping[str, str]
) -> dict[str, str]:
    """Each row's own task: the one given, or the one of the same name, - and _ being alike."""
    by_name = {task.replace("-", "_"): task for task in tasks}
    found = {label: by_name.get(label.replace("-", "_")) for label in labels}
    return {label: task for label, task in {**found, **given}.items() if task is not None}


def points(value: float, metric: Metric) -> float:
    """A difference in hundredths of the metric's best value; NaN where it has none."""
    bounded = metric.higher_is_better and metric.maximum > 0
    return 100 * value / metric.maximum if bounded else math.nan


def _checked(
    settings: MatrixSettings, rows: Sequence[Row], results: Sequence[TaskResult]
) -> MatrixSettings:
    labels = [row.label for row in rows[1:]]
    tasks = [result.task.name for result in results]
    for label, task in settings.own.items():
        if label not in labels:
            raise InputError(f"--own: no row '{label}'; {nearest(label, labels)}")
        if task not in tasks:
            raise InputError(f"--own: no task '{task}'; {nearest(task, tasks)}")
    own = own_tasks(labels, tasks, settings.own)
    for label in settings.sequence:
        if label not in labels:
            raise InputError(f"--sequence: no row '{label}'; {nearest(label, labels)}")
        if label not in own:
            raise InputError(f"--sequence: which task '{label}' is for is not known; give --own")
    if len(settings.sequence) == 1:
        raise InputError("--sequence: needs at least two rows")
    return replace(settings, own=own)


def _finding(comparison: Comparison, p_adjusted: float, alpha: float) -> Finding:
    if not comparison.num_pairs:
        return Finding.UNSCORED
    if not p_adjusted <= alpha or comparison.diff == 0:
        return Finding.UNCLEAR
    return Finding.GAIN if comparison.diff > 0 else Finding.LOSS


def _summary(
    label: str,
    results: Sequence[TaskResult],
    cells: Mapping[tuple[str, str], MatrixCell],
    settings: MatrixSettings,
) -> RowSummary:
    own = settings.own.get(label)
    gains = {
        result.task.name: points(
            cells[label, result.task.name].comparison.diff, result.task.metrics[0]
        )
        for result in results
    }
    losses = {task: -gain for task, gain in gains.items() if task != own and not math.isnan(gain)}
    worst = max(losses, key=lambda task: losses[task], default=None)
    return RowSummary(
        own_task=own,
        own_gain=math.nan if own is None else gains[own],
        mean_loss=fmean(losses.values()) if losses else math.nan,
        worst_loss=math.nan if worst is None else losses[worst],
        worst_task=worst,
        num_losses=sum(
            cells[label, result.task.name].finding is Finding.LOSS for result in results
        ),
    )


def _sequence(results: Sequence[TaskResult], settings: MatrixSettings) -> SequenceSummary:
    by_task = {result.task.name: result for result in results}
    order = settings.sequence
    last = order[-1]
    transfers, variances, forgotten = [], [], []
    for label in order[:-1]:
        result = by_task[settings.own[label]]
        metric = result.task.metrics[0]
        scores = {row: result.cells[row].scores[metric.name] for row in order}
        moved = oriented(compare(scores[last], scores[label], settings.tests), metric)
        transfers.append(points(moved.diff, metric))
        variances.append(points(moved.error, metric) ** 2)
        earlier = max(points(scores[row].value, metric) for row in order[:-1])
        forgotten.append(earlier - points(scores[last].value, metric))
    return SequenceSummary(
        order=order,
        backward_transfer=fmean(transfers),
        standard_error=math.sqrt(sum(variances)) / len(variances),
        forgetting=fmean(forgotten),
    )
