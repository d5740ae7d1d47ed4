"""`report.json` and `samples.jsonl`: every number with what it takes to compare it.

Both are functions of the tasks, the answers and the seed; no time or address is in them.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from evalsuite.metrics import NORMALISERS, picked
from evalsuite.results import Cell, TaskResult
from evalsuite.stats import BootstrapConfig, gain, value_interval
from evalsuite.types import Mode, RowKind

REPORT_FORMAT = 1


@dataclass(frozen=True)
class Settings:
    """What a run was asked to do, beside tasks and rows."""

    seed: int
    limit: int | None
    bootstrap: BootstrapConfig


def build_report(
    results: Sequence[TaskResult], model: Mapping[str, Any], settings: Settings
) -> dict[str, Any]:
    """The report as JSON values. `model` is GetModelInfo's answer."""
    return {
        "format": REPORT_FORMAT,
        "server": dict(model),
        "settings": asdict(settings),
        "tasks": {
            result.task.name: {
                **_describe(result),
                "rows": {
                    label: _row(result, cell, model, settings)
                    for label, cell in result.cells.items()
                },
            }
            for result in results
        },
    }


def _describe(result: TaskResult) -> dict[str, Any]:
    task, trivial = result.task, result.trivial
    return {
        "version": task.spec.version,
        "licence": task.spec.licence,
        "source": task.spec.source,
        "mode": str(task.spec.mode),
        "primary_metric": task.metrics[0].name,
        "num_samples": len(task.samples),
        "data_sha256": task.data_sha256,
        "train_sha256": task.train_sha256,
        "template_sha256": task.template_sha256,
        "trivial": {"kind": trivial.kind, "text": trivial.text} if trivial else None,
    }


def _row(
    result: TaskResult, cell: Cell, model: Mapping[str, Any], settings: Settings
) -> dict[str, Any]:
    answers = [outcome.answer for outcome in cell.outcomes if outcome.answer is not None]
    asked = cell.row.kind is not RowKind.TRIVIAL
    refusals = [outcome.refusal for outcome in cell.outcomes if outcome.answer is None]
    return {
        **asdict(cell.row),
        "num_scored": len(answers),
        "num_unscored": len(refusals),
        "first_refusal": next(iter(refusals), None),
        "mean_shots": fmean(outcome.shots for outcome in cell.outcomes),
        "mean_prompt_tokens": fmean(a.num_prompt_tokens for a in answers) if asked else 0.0,
        "mean_completion_tokens": fmean(a.num_completion_tokens for a in answers) if asked else 0.0,
        "metrics": {name: _number(result, cell, name, model, settings) for name in cell.scores},
        "gains": _gains(result, cell, settings),
    }


def _number(
    result: TaskResult, cell: Cell, name: str, model: Mapping[str, Any], settings: Settings
) -> dict[str, Any]:
    scores = cell.scores[name]
    interval = value_interval(scores, settings.bootstrap)
    return {
        "value": _finite(scores.value),
        "ci_low": _finite(interval.low),
        "ci_high": _finite(interval.high),
        "ci_method": interval.method,
        "maximum": scores.metric.maximum,
        "signature": signature(result, cell, scores.metric.signature, model, settings),
    }


def _gains(result: TaskResult, cell: Cell, settings: Settings) -> dict[str, Any]:
    """By metric: an adapter's gain over the best baseline."""
    if cell.row.kind is not RowKind.ADAPTER:
        return {}
    gains = {}
    for name, scores in cell.scores.items():
        baseline = result.best_baseline(name)
        if baseline is None:
            continue
        found = gain(scores, baseline.scores[name], settings.bootstrap)
        gains[name] = {
            "over": baseline.row.label,
            "diff": _finite(found.diff),
            "ci_low": _finite(found.ci_low),
            "ci_high": _finite(found.ci_high),
            "ci_method": found.method,
            "num_pairs": found.num_pairs,
        }
    return gains


def signature(
    result: TaskResult, cell: Cell, metric: str, model: Mapping[str, Any], settings: Settings
) -> str:
    """One line that names everything the number depends on. Equal signatures are comparable."""
    task, row = result.task, cell.row
    parts = [f"task:{task.name}@{task.spec.version}", f"data:{task.data_sha256[:12]}"]
    parts.append(f"n:{len(task.samples)}")
    if row.kind is RowKind.TRIVIAL:
        parts.append(f"trivial:{result.trivial.kind if result.trivial else 'none'}")
    else:
        template = "adapter" if row.kind is RowKind.ADAPTER else task.template_sha256[:12]
        parts += [f"template:{template}", f"shots:{row.shots}"]
        adapter = f"{row.adapter}@{row.version[:12]}" if row.adapter else "none"
        parts += [f"base:{model['base_fingerprint'][:12]}", f"quant:{model['quantization']}"]
        parts += [f"adapter:{adapter}", "decode:greedy"]
        if task.spec.mode is Mode.GENERATE:
            parts += [f"max_tokens:{task.spec.max_tokens}", f"stop:{json.dumps(task.spec.stop)}"]
    if row.shots or row.kind is RowKind.TRIVIAL:
        parts.append(f"train:{(task.train_sha256 or 'none')[:12]}|seed:{settings.seed}")
    return "|".join([*parts, metric])


def sample_lines(results: Sequence[TaskResult]) -> Iterator[str]:
    """The lines of `samples.jsonl`: what each row answered to each sample, and its scores."""
    for result in results:
        for cell in result.cells.values():
            for index in range(len(result.task.samples)):
                record = _sample_record(result, cell, index)
                yield json.dumps(record, ensure_ascii=False) + "\n"


def _sample_record(result: TaskResult, cell: Cell, index: int) -> dict[str, Any]:
    sample, outcome = result.task.samples[index], cell.outcomes[index]
    record: dict[str, Any] = {
        "task": result.task.name,
        "row": cell.row.label,
        "id": sample.id,
        "input": sample.input,
        "references": sample.references,
        "shots": outcome.shots,
    }
    if outcome.request is not None and outcome.request.raw:
        record["prompt"] = outcome.request.text
    if outcome.answer is None:
        return {**record, "refusal": outcome.refusal}
    record["output"] = outcome.answer.text
    if sample.choices:
        record["choices"] = sample.choices
        record["target"] = sample.target
        record["logprobs"] = [choice.logprob for choice in outcome.answer.choices]
        record["output"] = sample.choices[picked(NORMALISERS["accuracy"], sample, outcome.answer)]
    record["finish_reason"] = outcome.answer.finish_reason
    record["scores"] = {
        name: scores.metric.item(scores.statistics[index]) for name, scores in cell.scores.items()
    }
    return record


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
