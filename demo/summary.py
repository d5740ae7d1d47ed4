"""The demo's last line: what each adapter gained on its task."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def summarize(report: Mapping[str, Any], task_of: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """By adapter: its method, task, primary metric, the four scores and the lower end of the gain.

    `report` is the eval suite's report.json, `task_of` has each adapter's own task. The gain is
    over the best of bare base, base with three shots and trivial answer, with its paired 95%
    bootstrap interval. A number that the report does not have is None.
    """
    summary = {}
    for adapter, task_name in task_of.items():
        task = report["tasks"][task_name]
        metric, rows = task["primary_metric"], task["rows"]
        summary[adapter] = {
            "method": rows[adapter]["method"],
            "task": task_name,
            "metric": metric,
            "base": _rounded(rows["base"]["metrics"][metric]["value"]),
            "base_3shot": _rounded(rows["base_3shot"]["metrics"][metric]["value"]),
            "trivial": _rounded(rows["trivial"]["metrics"][metric]["value"]),
            "adapter": _rounded(rows[adapter]["metrics"][metric]["value"]),
            "ci_low": _rounded(rows[adapter]["gains"][metric]["ci_low"]),
        }
    return summary


def summary_table(summary: Mapping[str, Mapping[str, Any]]) -> Table:
    """The values of `summarize` as a table."""
    table = Table(title="Each adapter on its own task")
    table.add_column("", no_wrap=True)
    for title in ("metric", "base", "3 shots", "trivial", "adapter", "gain above"):
        table.add_column(title, no_wrap=title == "metric")
    for adapter, row in summary.items():
        values = (row[key] for key in ("base", "base_3shot", "trivial", "adapter", "ci_low"))
        shown = ("-" if value is None else f"{value:.3g}" for value in values)
        table.add_row(adapter, row["metric"], *shown)
    return table


def shortfalls(summary: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for each adapter of `summarize` whose gain is not shown to be above 0."""
    return [
        f"{adapter} does not beat the base, the base with three shots and a trivial answer: the "
        f"95% interval of its gain in {row['metric']} begins at {row['ci_low']}, not above 0"
        for adapter, row in summary.items()
        if row["ci_low"] is None or row["ci_low"] <= 0
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
