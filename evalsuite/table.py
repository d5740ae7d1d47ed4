"""The report in the terminal: adapter x task with gains, then the other metrics."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

Report = Mapping[str, Any]


def print_report(report: Report, console: Console) -> None:
    """Prints the tables of a report."""
    console.print(_matrix(report))
    for name, task in report["tasks"].items():
        rows = task["rows"].values()
        if len(next(iter(rows))["metrics"]) > 1 or any(row["shots"] for row in rows):
            console.print(_details(name, task))


def _matrix(report: Report) -> Table:
    tasks = report["tasks"]
    confidence = report["settings"]["tests"]["bootstrap"]["confidence"]
    table = Table(
        title="What each adapter gained",
        caption=f"Below a value: gain over the best baseline, with its paired {confidence:.0%} "
        "bootstrap interval",
    )
    table.add_column("")
    for name, task in tasks.items():
        table.add_column(f"{name}\n{task['primary_metric']}, n={task['num_samples']}")
    labels = dict.fromkeys(label for task in tasks.values() for label in task["rows"])
    for label in labels:
        table.add_row(label, *(_cell(task, label) for task in tasks.values()))
    return table


def _cell(task: Report, label: str) -> Text:
    row = task["rows"].get(label)
    if row is None:
        return Text("-")
    text = Text(_value(row["metrics"][task["primary_metric"]]["value"]))
    if row["kind"] == "trivial":
        text.append(f" ({task['trivial']['kind']})", style="dim")
    if row["num_unscored"]:
        text.append(f"  ({row['num_unscored']} unscored)", style="yellow")
    gain = row["gains"].get(task["primary_metric"])
    if gain is None or gain["diff"] is None:
        return text
    style = ""
    if gain["ci_low"] is not None:
        style = "green" if gain["ci_low"] > 0 else "red" if gain["ci_high"] < 0 else ""
    text.append(f"\n{gain['diff']:+.3f}", style=style).append(f" over {gain['over']}", style="dim")
    if gain["ci_low"] is not None:
        text.append(f"\n[{gain['ci_low']:+.3f}, {gain['ci_high']:+.3f}]", style=style)
    return text


def _details(name: str, task: Report) -> Table:
    table = Table(title=f"{name}: all metrics")
    table.add_column("")
    for metric in next(iter(task["rows"].values()))["metrics"]:
        table.add_column(metric, justify="right")
    for title in ("shots", "prompt\ntokens", "new\ntokens"):
        table.add_column(title, justify="right")
    for label, row in task["rows"].items():
        values = [number["value"] for number in row["metrics"].values()]
        tokens = [row["mean_prompt_tokens"], row["mean_completion_tokens"]]
        took = [f"{value:.1f}" for value in (row["mean_shots"], *tokens)]
        table.add_row(label, *map(_value, values), *took)
    return table


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if value >= 100 else f"{value:.3f}"
