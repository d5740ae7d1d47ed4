"""`gate`: whether a candidate may replace a baseline. Exit code 0 yes, 1 no, 2 wrong use."""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from evalsuite import flags
from evalsuite.commands.common import evaluated, wanted
from evalsuite.commands.run import write_report
from evalsuite.record import write_text
from evalsuite.reports.gate import (
    GateResult,
    GateSettings,
    gate_fields,
    gate_junit,
    gate_markdown,
    judge,
)
from evalsuite.session import Plan, Played
from evalsuite.stats import BootstrapConfig, TestConfig, Verdict

GATE_FILE = "gate.json"


def add(parser: argparse.ArgumentParser) -> None:
    """Flags of `gate`."""
    parser.add_argument("--candidate", required=True, metavar="ROW", help="as in `run --adapters`")
    parser.add_argument("--baseline", required=True, metavar="ROW", help="as in `run --adapters`")
    parser.add_argument(
        "--delta",
        type=flags.number,
        default=1.0,
        metavar="POINTS",
        help="greatest drop allowed, in hundredths of the metric's best value; for errors such as "
        "bits per byte in percent of the baseline's (default: 1)",
    )
    parser.add_argument(
        "--task-delta",
        type=flags.numbers,
        default={},
        metavar="TASK=POINTS,...",
        help="where a task has another",
    )
    parser.add_argument(
        "--alpha", type=flags.share, default=0.05, metavar="P", help="level (default: 0.05)"
    )
    parser.add_argument(
        "--power",
        type=flags.share,
        default=0.8,
        metavar="P",
        help="wanted chance to pass where nothing changed (default: 0.8)",
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write Markdown")
    flags.add_asking(parser, "worked examples in a bare base's prompt (default: 0)", required=False)
    parser.set_defaults(call=_gate)


def _gate(arguments: argparse.Namespace) -> int:
    rows = list(dict.fromkeys([arguments.baseline, arguments.candidate]))
    asked = wanted(arguments, rows, arguments.tasks or ())

    def use(plan: Plan, played: Played) -> GateResult:
        tests = TestConfig(
            BootstrapConfig(confidence=1 - arguments.alpha, seed=plan.seed),
            alpha=arguments.alpha,
            power=arguments.power,
        )
        settings = GateSettings(
            candidate=arguments.candidate.partition("=")[0],
            baseline=arguments.baseline.partition("=")[0],
            delta=arguments.delta,
            task_deltas=arguments.task_delta,
            tests=tests,
        )
        result = judge(played.results, settings)
        if arguments.server is not None:
            write_report(arguments, plan, played)
        return result

    result = evaluated(arguments, asked, use)
    fields = gate_fields(result)
    write_text(arguments.out / GATE_FILE, [json.dumps(fields, indent=2), "\n"])
    if arguments.junit is not None:
        write_text(arguments.junit, [gate_junit(result)])
    if arguments.markdown is not None:
        write_text(arguments.markdown, [gate_markdown(result)])
    if arguments.json:
        print(json.dumps(fields))
    else:
        _print(result, Console())
    return 0 if result.is_open else 1


def _print(result: GateResult, console: Console) -> None:
    table = Table(title=f"{result.settings.candidate} against {result.settings.baseline}")
    for title in ("task", "verdict", "change", "allowed drop", "p (Holm)", "power", "n"):
        table.add_column(title)
    for task in result.tasks:
        found = task.found
        table.add_row(
            task.task,
            f"[{'green' if task.verdict is Verdict.PASS else 'red'}]{task.verdict}[/]",
            f"{found.diff:+.4g} [{found.ci_low:+.4g}, {found.ci_high:+.4g}]".replace("[", "\\["),
            f"{found.margin:.4g}",
            f"{task.p_adjusted:.3g}",
            f"{found.power:.2f}",
            str(found.num_pairs),
        )
    console.print(table)
    for task in result.tasks:
        if task.verdict is not Verdict.PASS:
            console.print(f"{task.task}: {task.says}", highlight=False, markup=False)
    console.print("the gate is open" if result.is_open else "the gate is shut")
