"""One self-contained HTML page: scores, matrix, plots, published numbers, every sample.

Everything is in the file: style, script, data. Nothing is loaded from anywhere.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evalsuite.report import sample_record
from evalsuite.reports.plots import Dot, dot_plot, reliability_plot, shown
from evalsuite.reports.published import beside_ours
from evalsuite.results import TaskResult
from evalsuite.types import RowKind

_FOLDER = Path(__file__).with_name("page")
# Points at which a cell of the heat map has its full colour.
_FULL_COLOUR = 20.0
_OF_SAMPLE = ("id", "input", "references", "choices", "target")
_OF_ANSWER = ("prompt", "output", "refusal", "finish_reason", "logprobs", "scores")


def html_page(
    title: str,
    report: Mapping[str, Any],
    matrix: Mapping[str, Any] | None,
    cost: Mapping[str, Any] | None,
    results: Sequence[TaskResult],
    max_samples: int,
) -> str:
    """The page, from the contents of report.json, matrix.json and efficiency.json.

    At most `max_samples` of each task are in it.
    """
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = lambda value: "–" if value is None else shown(value)
    environment.filters["signed"] = _signed
    environment.filters["megabytes"] = lambda value: f"{value / 1e6:.1f}"
    environment.filters["p"] = lambda value: "–" if value is None else f"{value:.2g}"
    template = environment.get_template("page.html")
    return template.render(
        title=title,
        report=report,
        matrix=matrix,
        cost=cost,
        labels=list(dict.fromkeys(r for task in report["tasks"].values() for r in task["rows"])),
        plots={name: _values_plot(name, task) for name, task in report["tasks"].items()},
        changes={} if matrix is None else _change_plots(matrix),
        calibrated=_calibrated(report),
        reliability=reliability_plot,
        colour=_colour,
        points=_points,
        published=beside_ours(report),
        style=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        script=(_FOLDER / "page.js").read_text(encoding="utf-8"),
        samples=embedded(sample_data(results, max_samples)),
        max_samples=max_samples,
    )


def _calibrated(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Calibration by task and row, of those that have it."""
    found = {
        name: {label: row["calibration"] for label, row in task["rows"].items()}
        for name, task in report["tasks"].items()
    }
    kept = {n: {k: v for k, v in rows.items() if v is not None} for n, rows in found.items()}
    return {name: rows for name, rows in kept.items() if rows}


def sample_data(results: Sequence[TaskResult], max_samples: int) -> dict[str, Any]:
    """By task: its first samples, and what each row answered, as the page's script reads it."""
    data = {}
    for result in results:
        num_shown = min(max_samples, len(result.task.samples))
        samples: list[dict[str, Any]] = []
        rows: dict[str, list[dict[str, Any]]] = {label: [] for label in result.cells}
        for index in range(num_shown):
            records = {
                label: sample_record(result, cell, index) for label, cell in result.cells.items()
            }
            samples.append(_some(next(iter(records.values())), _OF_SAMPLE))
            for label, record in records.items():
                rows[label].append(_some(record, _OF_ANSWER))
        metric = result.task.metrics[0]
        data[result.task.name] = {
            "metric": metric.name,
            "higher_is_better": metric.higher_is_better,
            "num_samples": len(result.task.samples),
            "best": _best_row(result),
            "samples": samples,
            "rows": rows,
        }
    return data


def _best_row(result: TaskResult) -> str:
    """The label of the row to look at first."""
    name, sign = result.task.metrics[0].name, 1 if result.task.metrics[0].higher_is_better else -1
    asked = [label for label, cell in result.cells.items() if cell.row.kind is not RowKind.TRIVIAL]
    scored = [label for label in asked if result.cells[label].scores[name].num_scored]
    return max(scored or asked, key=lambda label: sign * result.cells[label].scores[name].value)


def _some(record: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: record[name] for name in names if name in record}


def embedded(value: Any) -> str:
    """JSON that can stand in a script element, whatever texts it holds."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char, escaped in (("<", "\\u003c"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029")):
        text = text.replace(char, escaped)
    return text


def _values_plot(name: str, task: Mapping[str, Any]) -> str:
    metric = task["primary_metric"]
    dots = []
    for label, row in task["rows"].items():
        number = row["metrics"][metric]
        dots.append(Dot(label, number["value"], number["ci_low"], number["ci_high"], row["kind"]))
    return dot_plot(f"{metric} on {name} with intervals", dots)


def _change_plots(matrix: Mapping[str, Any]) -> dict[str, str]:
    """By task: every row's change from the base."""
    plots = {}
    for task in matrix["tasks"]:
        dots = []
        for label, row in matrix["rows"].items():
            cell = row["cells"][task]
            dots.append(Dot(label, cell["gain"], cell["ci_low"], cell["ci_high"], cell["finding"]))
        plots[task] = dot_plot(f"change from the base on {task}", dots, zero=True)
    return plots


def _points(task: Mapping[str, Any], gain: float | None) -> float | None:
    """A gain in hundredths of the best value; in percent of the base's value for an error."""
    if gain is None:
        return None
    whole = task["maximum"] if task["higher_is_better"] else task["base"]
    return 100 * gain / whole if whole else None


def _colour(task: Mapping[str, Any], gain: float | None) -> str:
    """A cell's background: blue for gains, orange for losses, stronger for larger ones."""
    found = _points(task, gain)
    if found is None:
        return "transparent"
    strength = min(1.0, abs(found) / _FULL_COLOUR)
    red, green, blue = (38, 110, 190) if found > 0 else (214, 96, 20)
    return f"rgba({red},{green},{blue},{0.06 + 0.6 * strength:.3f})"


def _signed(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{'+' if value > 0 else ''}{shown(value)}"
