"""`report.json` and `samples.jsonl`: every number with what it takes to compare it.

Both are functions of the tasks, the answers and the seed; no time or address is in them.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evalsuite.aspects.calibration import calibration
from evalsuite.aspects.robustness import robustness_fields, split_perturbed
from evalsuite.aspects.texts import Lists, default_lists, text_fields
from evalsuite.metrics import NORMALISERS, picked
from evalsuite.results import Cell, TaskResult
from evalsuite.session import Models
from evalsuite.stats import (
    Comparison,
    Correction,
    TestConfig,
    adjusted_by_key,
    compare,
    standard_error,
    value_interval,
)
from evalsuite.types import Mode, RowKind

REPORT_FORMAT = 2

# Of a row: where and how it was asked is no result.
_UNREPORTED = ("server", "variables")


@dataclass(frozen=True)
class Settings:
    """What a run was asked to do, beside tasks and rows."""

    seed: int
    limit: int | None
    tests: TestConfig
    correction: Correction = Correction.BH
    """Of the gains' p-values, over the whole report."""


GainKey = tuple[str, str, str]
"""Task, row, metric."""


@dataclass(frozen=True)
class Gain:
    """A row against a baseline, with its p-value corrected over the report."""

    over: str
    """Label of the baseline."""
    comparison: Comparison
    p_adjusted: float


def build_report(
    results: Sequence[TaskResult],
    models: Models,
    settings: Settings,
    lists: Lists | None = None,
) -> dict[str, Any]:
    """The report as JSON values. Perturbed tasks stand beside their originals, not among them."""
    every, (results, _) = results, split_perturbed(results)
    gains = find_gains(results, settings)
    lists = default_lists() if lists is None else lists
    texts = {
        result.task.name: text_fields(result, lists, settings.tests.bootstrap) for result in results
    }
    return {
        "format": REPORT_FORMAT,
        "server": dict(models[""]),
        "settings": asdict(settings),
        "tasks": {
            result.task.name: {
                **_describe(result),
                "rows": {
                    label: _row(result, cell, models, settings, gains)
                    for label, cell in result.cells.items()
                },
            }
            for result in results
        },
        "texts": {task: rows for task, rows in texts.items() if rows},
        "robustness": robustness_fields(every, settings.tests, settings.correction),
    }


def find_gains(results: Sequence[TaskResult], settings: Settings) -> dict[GainKey, Gain]:
    """Every adapter's gain over the best baseline of its task.

    Gains in primary metrics are corrected together, and those in the others together: metrics
    reported beside the primary one cost it nothing.
    """
    found: dict[GainKey, tuple[str, Comparison]] = {}
    for result in results:
        for label, cell in result.cells.items():
            if cell.row.kind is not RowKind.ADAPTER:
                continue
            for name, scores in cell.scores.items():
                baseline = result.best_baseline(cell, name)
                if baseline is not None:
                    comparison = compare(scores, baseline.scores[name], settings.tests)
                    found[result.task.name, label, name] = (baseline.row.label, comparison)
    primary = {result.task.name: result.task.metrics[0].name for result in results}
    corrected: dict[GainKey, float] = {}
    for is_primary in (True, False):
        family = {
            key: comparison.p
            for key, (_, comparison) in found.items()
            if (primary[key[0]] == key[2]) is is_primary
        }
        corrected |= adjusted_by_key(family, settings.correction)
    return {key: Gain(*value, corrected[key]) for key, value in found.items()}


def _describe(result: TaskResult) -> dict[str, Any]:
    task, trivial = result.task, result.trivial
    return {
        "version": task.spec.version,
        "licence": task.spec.licence,
        "source": task.spec.source,
        "mode": str(task.spec.mode),
        "primary_metric": task.metrics[0].name,
        "higher_is_better": task.metrics[0].higher_is_better,
        "num_samples": len(task.samples),
        "data_sha256": task.data_sha256,
        "train_sha256": task.train_sha256,
        "template_sha256": task.template_sha256,
        "trivial": {"kind": trivial.kind, "text": trivial.text} if trivial else None,
    }


def _row(
    result: TaskResult,
    cell: Cell,
    models: Models,
    settings: Settings,
    gains: Mapping[GainKey, Gain],
) -> dict[str, Any]:
    return {
        **{name: value for name, value in asdict(cell.row).items() if name not in _UNREPORTED},
        "base_model": models[cell.row.server]["base_model"],
        **asdict(cell.totals),
        "metrics": {
            name: _number(result, cell, name, models[cell.row.server], settings)
            for name in cell.scores
        },
        "gains": {
            metric: {"over": gain.over, **comparison_fields(gain.comparison, gain.p_adjusted)}
            for (task, row, metric), gain in gains.items()
            if (task, row) == (result.task.name, cell.row.label)
        },
        "calibration": calibration(result, cell, settings.seed),
    }


def _number(
    result: TaskResult, cell: Cell, name: str, model: Mapping[str, Any], settings: Settings
) -> dict[str, Any]:
    scores = cell.scores[name]
    interval = value_interval(scores, settings.tests.bootstrap)
    return {
        "value": finite(scores.value),
        "ci_low": finite(interval.low),
        "ci_high": finite(interval.high),
        "ci_method": interval.method,
        "standard_error": finite(standard_error(scores)),
        "maximum": scores.metric.maximum,
        "signature": signature(result, cell, scores.metric.signature, model, settings.seed),
    }


def comparison_fields(comparison: Comparison, p_adjusted: float) -> dict[str, Any]:
    """A comparison as JSON values; None stands for what cannot be said."""
    return {
        "diff": finite(comparison.diff),
        "ci_low": finite(comparison.ci_low),
        "ci_high": finite(comparison.ci_high),
        "ci_method": comparison.method,
        "num_pairs": comparison.num_pairs,
        "num_groups": comparison.num_groups,
        "standard_error": finite(comparison.error),
        "p": finite(comparison.p),
        "p_adjusted": finite(p_adjusted),
        "test": comparison.test,
        "mde": finite(comparison.mde),
    }


def signature(
    result: TaskResult, cell: Cell, metric: str, model: Mapping[str, Any], seed: int
) -> str:
    """One line that names everything the number depends on. Equal signatures are comparable."""
    task, row = result.task, cell.row
    parts = [f"task:{task.name}@{task.spec.version}", f"data:{task.data_sha256[:12]}"]
    parts += [f"n:{len(task.samples)}", f"subset:{task.subset}"]
    if task.perturbation is not None:
        parts.append(f"perturbed:{task.perturbation.signature}")
    if row.kind is RowKind.TRIVIAL:
        parts.append(f"trivial:{result.trivial.kind if result.trivial else 'none'}")
    else:
        # In mode likelihood an adapter gets the base's prompt.
        own = row.kind is RowKind.ADAPTER and task.spec.mode is not Mode.LIKELIHOOD
        template = "adapter" if own else task.template_sha256[:12]
        parts += [f"template:{template}", f"shots:{row.shots}"]
        adapter = f"{row.adapter}@{row.version[:12]}" if row.adapter else "none"
        parts += [f"base:{model['base_fingerprint'][:12]}", f"quant:{model['quantization']}"]
        parts += [f"adapter:{adapter}", "decode:greedy"]
        if task.spec.mode is Mode.GENERATE:
            parts += [f"max_tokens:{task.spec.max_tokens}", f"stop:{json.dumps(task.spec.stop)}"]
    if row.shots or row.kind is RowKind.TRIVIAL:
        parts.append(f"train:{(task.train_sha256 or 'none')[:12]}|seed:{seed}")
    return "|".join([*parts, metric])


def sample_lines(results: Sequence[TaskResult]) -> Iterator[str]:
    """The lines of `samples.jsonl`: what each row answered to each sample, and its scores."""
    for result in results:
        for cell in result.cells.values():
            for index in range(len(result.task.samples)):
                record = sample_record(result, cell, index)
                yield json.dumps(record, ensure_ascii=False) + "\n"


def sample_record(result: TaskResult, cell: Cell, index: int) -> dict[str, Any]:
    """What a row answered to one sample, and its scores; a line of `samples.jsonl`."""
    sample, outcome = result.task.samples[index], cell.outcomes[index]
    record: dict[str, Any] = {
        "task": result.task.name,
        "row": cell.row.label,
        "id": sample.id,
        "input": sample.input,
        "references": sample.references,
        "shots": outcome.shots,
    }
    if sample.choices:
        record["choices"] = sample.choices
        record["target"] = sample.target
    if outcome.request is not None and outcome.request.raw:
        record["prompt"] = outcome.request.text
    if outcome.answer is None:
        return {**record, "refusal": outcome.refusal}
    record["output"] = outcome.answer.text
    if sample.choices:
        record["logprobs"] = [finite(choice.logprob) for choice in outcome.answer.choices]
        record["output"] = sample.choices[picked(NORMALISERS["accuracy"], sample, outcome.answer)]
    record["finish_reason"] = outcome.answer.finish_reason
    record["scores"] = {
        name: finite(scores.metric.item(scores.statistics[index]))
        for name, scores in cell.scores.items()
    }
    return record


def finite(value: float) -> float | None:
    """The value; None for NaN and infinities, which JSON does not have."""
    return value if math.isfinite(value) else None
