"""`run` scores adapters on tasks; `rescore` scores a run's answers again."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from evalsuite import flags
from evalsuite.aspects.bias import read_words
from evalsuite.aspects.texts import Lists
from evalsuite.aspects.toxicity import read_toxic_words
from evalsuite.commands.common import Asked, evaluated
from evalsuite.record import REPORT_FILE, SAMPLES_FILE, write_text
from evalsuite.report import Settings, build_report, sample_lines
from evalsuite.session import Plan, Played
from evalsuite.stats import BootstrapConfig, TestConfig
from evalsuite.table import print_report
from evalsuite.task import Task


def add_run(parser: argparse.ArgumentParser) -> None:
    """Flags of `run`."""
    flags.add_rows(parser)
    flags.add_asking(
        parser,
        "worked examples in the base's prompt, one row each (default: 0,3; 0 if a task has no "
        "training file)",
    )
    flags.add_aspects(parser)
    parser.set_defaults(call=_run)


def add_rescore(parser: argparse.ArgumentParser) -> None:
    """Flags of `rescore`."""
    parser.add_argument("--tasks", type=flags.names, metavar="T,U", help="some of the run's tasks")
    flags.add_out(parser)
    flags.add_aspects(parser)
    parser.set_defaults(call=_rescore)


def write_report(arguments: argparse.Namespace, plan: Plan, played: Played) -> dict[str, Any]:
    """Writes `samples.jsonl` and `report.json`, and returns the latter's values."""
    settings = Settings(plan.seed, plan.limit, TestConfig(BootstrapConfig(seed=plan.seed)))
    report = build_report(played.results, played.models, settings, word_lists(arguments))
    write_text(arguments.out / SAMPLES_FILE, sample_lines(played.results))
    write_text(arguments.out / REPORT_FILE, [json.dumps(report, indent=2), "\n"])
    return report


def word_lists(arguments: argparse.Namespace) -> Lists:
    """Those of --words and --toxicity, where the verb has them. Raises InputError."""
    words, toxic = (getattr(arguments, name, None) for name in ("words", "toxicity"))
    return Lists(
        read_words() if words is None else read_words(words),
        None if toxic is None else read_toxic_words(toxic),
    )


def _run(arguments: argparse.Namespace) -> int:
    asked = Asked(arguments.adapters, arguments.tasks, default_shots)
    return _show(arguments, asked)


def _rescore(arguments: argparse.Namespace) -> int:
    return _show(arguments, None)


def _show(arguments: argparse.Namespace, asked: Asked | None) -> int:
    # What is wrong with a list is said before anything is asked.
    word_lists(arguments)
    report = evaluated(arguments, asked, lambda *found: write_report(arguments, *found))
    if arguments.json:
        print(json.dumps(report))
    else:
        print_report(report, Console())
        print(f"report: {arguments.out / REPORT_FILE}")
    return 0


def default_shots(tasks: Sequence[Task]) -> Sequence[int]:
    """None and three, where every task has training rows to draw from."""
    return (0, 3) if all(task.train for task in tasks) else (0,)
