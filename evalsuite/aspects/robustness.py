"""What changes of wording do to a row: each one's change of the score, and the worst per sample.

As in HELM, a sample's worst case is its worst score over the original and the perturbations of one
family, and the worst case of a row is the mean of those. A difference is paired with the original's
sample by sample.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evalsuite.perturbations import Family, as_fields
from evalsuite.results import TaskResult
from evalsuite.stats import (
    Comparison,
    Correction,
    Interval,
    TestConfig,
    adjusted_by_key,
    compare,
    value_interval,
)
from evalsuite.stats.units import mean_values
from evalsuite.types import RowKind, Scores

Key = tuple[str, str, str, str]
"""Task, row, `perturbation` or `worst`, and the name of the perturbation or of the family."""


@dataclass(frozen=True)
class Variant:
    """A row's scores on changed inputs, or over the worst of several."""

    scores: Scores
    interval: Interval
    change: Comparison
    """From the original inputs."""


def split_perturbed(
    results: Sequence[TaskResult],
) -> tuple[tuple[TaskResult, ...], dict[str, tuple[TaskResult, ...]]]:
    """The results of tasks as they are, and by their names those of the same tasks perturbed.

    A perturbed task without its original beside it stands for itself.
    """
    originals = {
        _identity(result): result.task.name
        for result in results
        if result.task.perturbation is None
    }
    plain, changed = [], defaultdict(list)
    for result in results:
        name = originals.get(_identity(result))
        if result.task.perturbation is None or name is None:
            plain.append(result)
        else:
            changed[name].append(result)
    return tuple(plain), {name: tuple(found) for name, found in changed.items()}


def _identity(result: TaskResult) -> tuple[str, str, str]:
    task = result.task
    return task.spec.name, task.data_sha256, task.subset


def worst_case(variants: Sequence[Scores]) -> Scores | None:
    """Every sample's worst of several scores, [N]; None for a metric that is no mean of samples.

    A sample without an answer in any variant is unscored.
    """
    metric = variants[0].metric
    scored = np.logical_and.reduce([scores.scored for scores in variants])
    if not scored.any():
        return None
    values = [mean_values(metric, scores.statistics[scored]) for scores in variants]
    known = [found for found in values if found is not None]
    if len(known) < len(values):
        return None
    sign = 1 if metric.higher_is_better else -1
    worst = np.argmin(sign * np.stack(known), axis=0)
    statistics = np.zeros_like(variants[0].statistics)
    statistics[scored] = np.stack([scores.statistics[scored] for scores in variants])[
        worst, np.arange(len(worst))
    ]
    return Scores(metric, statistics, scored, variants[0].groups)


def robustness_fields(
    results: Sequence[TaskResult], tests: TestConfig, correction: Correction
) -> dict[str, Any]:
    """By task: the perturbations, and every row under each, as JSON values."""
    plain, changed = split_perturbed(results)
    found: dict[Key, Variant] = {}
    for result in plain:
        for label, cell in result.cells.items():
            if cell.row.kind is not RowKind.TRIVIAL and result.task.name in changed:
                name = result.task.metrics[0].name
                ours = {None: cell.scores[name]} | {
                    one.task.perturbation: one.cells[label].scores[name]
                    for one in changed[result.task.name]
                }
                found |= _variants(result.task.name, label, ours, tests)
    # A worst case is below the original by its making, which no test has to show.
    tested = {key: one.change.p for key, one in found.items() if key[2] == "perturbation"}
    p_adjusted = adjusted_by_key(tested, correction)
    return {
        result.task.name: _task_fields(result, changed[result.task.name], found, p_adjusted)
        for result in plain
        if result.task.name in changed
    }


def _task_fields(
    result: TaskResult,
    changed: Sequence[TaskResult],
    found: Mapping[Key, Variant],
    p_adjusted: Mapping[Key, float],
) -> dict[str, Any]:
    metric = result.task.metrics[0]
    by = [one.task.perturbation for one in changed if one.task.perturbation is not None]
    columns: dict[str, list[str]] = {
        "perturbation": [one.name for one in by],
        "worst": list(dict.fromkeys(one.family for one in by)),
    }

    def one(key: Key) -> dict[str, Any]:
        return _fields(found.get(key), p_adjusted.get(key, np.nan))

    def row(label: str, scores: Scores) -> dict[str, Any]:
        fields: dict[str, Any] = {"original": _finite(scores.value)}
        for kind, names in columns.items():
            fields[kind] = {name: one((result.task.name, label, kind, name)) for name in names}
        return fields

    return {
        "metric": metric.name,
        "higher_is_better": metric.higher_is_better,
        "perturbations": {one.name: as_fields(one) for one in by},
        "rows": {
            label: row(label, cell.scores[metric.name])
            for label, cell in result.cells.items()
            if cell.row.kind is not RowKind.TRIVIAL
        },
    }


def _variants(
    task: str, label: str, ours: Mapping[Any, Scores], tests: TestConfig
) -> dict[Key, Variant]:
    found: dict[Key, Variant] = {}
    families: dict[Family, list[Scores]] = defaultdict(list)
    original = ours[None]
    for one, scores in ours.items():
        if one is not None:
            families[one.family].append(scores)
            found[task, label, "perturbation", one.name] = _variant(scores, original, tests)
    for family, several in families.items():
        worst = worst_case([original, *several])
        if worst is not None:
            found[task, label, "worst", family] = _variant(worst, original, tests)
    return found


def _variant(scores: Scores, original: Scores, tests: TestConfig) -> Variant:
    interval = value_interval(scores, tests.bootstrap)
    return Variant(scores, interval, compare(scores, original, tests))


def _fields(variant: Variant | None, p_adjusted: float) -> dict[str, Any]:
    """None for what cannot be said, as of a worst case under a metric that is no mean."""
    if variant is None:
        names = ("value", "ci_low", "ci_high", "change", "change_low", "change_high")
        return dict.fromkeys((*names, "p", "p_adjusted", "mde", "num_pairs", "test"))
    change, is_tested = variant.change, np.isfinite(p_adjusted)
    return {
        "value": _finite(variant.scores.value),
        "ci_low": _finite(variant.interval.low),
        "ci_high": _finite(variant.interval.high),
        "change": _finite(change.diff),
        "change_low": _finite(change.ci_low),
        "change_high": _finite(change.ci_high),
        "p": _finite(change.p) if is_tested else None,
        "p_adjusted": _finite(p_adjusted),
        "mde": _finite(change.mde) if is_tested else None,
        "num_pairs": change.num_pairs,
        "test": change.test if is_tested else None,
    }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
