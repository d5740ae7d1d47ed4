"""The demo's last line: what each adapter gained on its task."""

from collections.abc import Mapping
from typing import Any


def summarize(report: Mapping[str, Any], task_of: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """By adapter: its method, task, primary metric, the four scores and the lower end of the gain.

    `report` is the eval suite's report.json, `task_of` maps adapters to their own tasks. The gain
    is over the best of bare base, base with three shots and trivial answer, with its paired 95%
    bootstrap interval.
    """
    summary = {}
    for adapter, task_name in task_of.items():
        task = report["tasks"][task_name]
        metric, rows = task["primary_metric"], task["rows"]
        gain = rows[adapter]["gains"][metric]
        summary[adapter] = {
            "method": rows[adapter]["method"],
            "task": task_name,
            "metric": metric,
            "base": _value(rows["base"], metric),
            "base_3shot": _value(rows["base_3shot"], metric),
            "trivial": _value(rows["trivial"], metric),
            "adapter": _value(rows[adapter], metric),
            "ci_low": round(gain["ci_low"], 4),
        }
    return summary


def _value(row: Mapping[str, Any], metric: str) -> float:
    return round(float(row["metrics"][metric]["value"]), 4)
