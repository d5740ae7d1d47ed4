"""Command line: `python -m evalsuite VERB`; every verb explains itself with --help."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from evalsuite import flags
from evalsuite.errors import EvalError
from evalsuite.progress import ProgressBar
from evalsuite.record import REPORT_FILE, SAMPLES_FILE, AnswerLog, write_text
from evalsuite.registry import built_in_tasks, load_tasks
from evalsuite.report import Settings, build_report, sample_lines
from evalsuite.session import Plan, Played, absolute, parse_row, play, replay
from evalsuite.stats import BootstrapConfig, TestConfig
from evalsuite.table import print_report
from evalsuite.task import Task, patterns

_EXAMPLES = """examples:
  python -m evalsuite run --server localhost:50051 --adapters base,support --tasks my_task.yaml
  python -m evalsuite run --server localhost:50051 --adapters base,a,b \\
      --tasks support_summary,review_label --data-dir data --shots 0,3 --out runs/eval
  python -m evalsuite rescore --out runs/eval
  python -m evalsuite tasks
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; the exit code: 0, 2 for anything wrong, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.call(arguments))
    except EvalError as error:
        print(f"evalsuite: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("evalsuite: stopped; the same command continues where it was", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evalsuite",
        description="Scores adapters and the bare base through a running server.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, call: Any, help: str) -> argparse.ArgumentParser:
        found = commands.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=_EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        found.set_defaults(call=call)
        return found

    run = command("run", _run, "score adapters on tasks")
    flags.add_rows(run)
    flags.add_asking(
        run,
        "worked examples in the base's prompt, one row each (default: 0,3; 0 if a task has no "
        "training file)",
    )
    rescore = command("rescore", _rescore, "score a run's answers again, without a server")
    rescore.add_argument("--tasks", type=flags.names, metavar="T,U", help="some of the run's tasks")
    flags.add_out(rescore)
    tasks = command("tasks", _list_tasks, "list the built-in tasks")
    tasks.add_argument("--json", action="store_true", help="print a JSON list")
    return parser


def _list_tasks(arguments: argparse.Namespace) -> int:
    specs = [found.definition.spec for found in built_in_tasks().values()]
    fields = ("name", "version", "mode", "metrics", "data", "source", "licence")
    if arguments.json:
        print(json.dumps([{field: getattr(spec, field) for field in fields} for spec in specs]))
        return 0
    table = Table("name", "mode", "metrics", "data")
    for spec in specs:
        table.add_row(spec.name, spec.mode, ", ".join(spec.metrics), ", ".join(patterns(spec.data)))
    Console().print(table)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    tasks = load_tasks(arguments.tasks, arguments.data_dir, arguments.limit)
    return _show(arguments, asyncio.run(_evaluate(arguments, tasks)))


def _rescore(arguments: argparse.Namespace) -> int:
    async def score() -> dict[str, Any]:
        with AnswerLog(arguments.out) as log:
            with ProgressBar() as progress:
                plan, played = await replay(arguments.out, log, arguments.tasks, progress)
            return _write(arguments, plan, played)

    return _show(arguments, asyncio.run(score()))


def _show(arguments: argparse.Namespace, report: dict[str, Any]) -> int:
    if arguments.json:
        print(json.dumps(report))
    else:
        print_report(report, Console())
        print(f"report: {arguments.out / REPORT_FILE}")
    return 0


async def _evaluate(arguments: argparse.Namespace, tasks: Sequence[Task]) -> dict[str, Any]:
    specs = [parse_row(name) for name in arguments.adapters]
    shots = arguments.shots or ((0, 3) if all(task.spec.train for task in tasks) else (0,))
    data_dir = None if arguments.data_dir is None else arguments.data_dir.resolve()
    plan = Plan(absolute(arguments.tasks), data_dir, arguments.limit, arguments.seed)
    with AnswerLog(arguments.out) as log:
        with ProgressBar() as progress:
            played = await play(
                plan, tasks, specs, shots, arguments.server, arguments.concurrency, log, progress
            )
        return _write(arguments, plan, played)


def _write(arguments: argparse.Namespace, plan: Plan, played: Played) -> dict[str, Any]:
    tests = TestConfig(BootstrapConfig(seed=plan.seed))
    report = build_report(played.results, played.models, Settings(plan.seed, plan.limit, tests))
    write_text(arguments.out / SAMPLES_FILE, sample_lines(played.results))
    write_text(arguments.out / REPORT_FILE, [json.dumps(report, indent=2), "\n"])
    return report


if __name__ == "__main__":
    sys.exit(main())
