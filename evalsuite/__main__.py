"""Command line: `python -m evalsuite run`, `python -m evalsuite tasks`."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from evalsuite.errors import EvalError, InputError
from evalsuite.generator import ClientGenerator
from evalsuite.progress import ProgressBar
from evalsuite.record import REPORT_FILE, SAMPLES_FILE, AnswerLog, write_text
from evalsuite.registry import built_in_tasks, load_tasks
from evalsuite.report import Settings, build_report, sample_lines
from evalsuite.results import TRIVIAL, evaluate
from evalsuite.runner import RunConfig, run
from evalsuite.stats import BootstrapConfig, TestConfig
from evalsuite.table import print_report
from evalsuite.task import Task, patterns
from evalsuite.types import Row, RowKind
from understudy.artifact import BASE_NAME

_EXAMPLES = """examples:
  python -m evalsuite run --server localhost:50051 --adapters base,support --tasks my_task.yaml
  python -m evalsuite run --server localhost:50051 --adapters base,a,b \\
      --tasks support_summary,review_label --data-dir data --shots 0,3 --out runs/eval
  python -m evalsuite tasks
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; the exit code: 0, 2 for anything wrong, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "tasks":
            return _list_tasks(arguments.json)
        return _run(arguments)
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
    score = commands.add_parser(
        "run",
        help="score adapters on tasks",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    score.add_argument("--server", required=True, metavar="HOST:PORT")
    score.add_argument(
        "--adapters",
        required=True,
        type=_names,
        metavar="A,B",
        help="'base', and adapters as NAME, NAME@VERSION or NAME@ALIAS",
    )
    score.add_argument(
        "--tasks", required=True, type=_names, metavar="T,U", help="built-in names, or task files"
    )
    score.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="where the tasks' data files are"
    )
    score.add_argument(
        "--shots",
        type=_counts,
        metavar="K,L",
        help="worked examples in the base's prompt, one row each (default: 0,3; 0 if a task has "
        "no training file)",
    )
    score.add_argument("--limit", type=_positive, metavar="N", help="first N samples of each task")
    score.add_argument(
        "--out",
        type=Path,
        default=Path("runs/eval"),
        metavar="DIR",
        help="log, samples and report; a run resumes from its log (default: runs/eval)",
    )
    score.add_argument(
        "--concurrency",
        type=_positive,
        metavar="N",
        help="requests in flight (default: twice the server's batch size)",
    )
    score.add_argument("--seed", type=int, default=0, help="draws shots and resamples (default: 0)")
    score.add_argument("--json", action="store_true", help="print report.json instead of tables")
    tasks = commands.add_parser("tasks", help="list the built-in tasks")
    tasks.add_argument("--json", action="store_true", help="print a JSON list")
    return parser


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"'{text}' has an empty name")
    if len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"'{text}' names something twice")
    return names


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of counts such as 0,3")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _list_tasks(as_json: bool) -> int:
    specs = [found.definition.spec for found in built_in_tasks().values()]
    fields = ("name", "version", "mode", "metrics", "data", "source", "licence")
    if as_json:
        print(json.dumps([{field: getattr(spec, field) for field in fields} for spec in specs]))
        return 0
    table = Table("name", "mode", "metrics", "data")
    for spec in specs:
        table.add_row(spec.name, spec.mode, ", ".join(spec.metrics), ", ".join(patterns(spec.data)))
    Console().print(table)
    return 0


def _run(arguments: argparse.Namespace) -> int:
    tasks = load_tasks(arguments.tasks, arguments.data_dir, arguments.limit)
    report = asyncio.run(_evaluate(arguments, tasks))
    if arguments.json:
        print(json.dumps(report))
    else:
        print_report(report, Console())
        print(f"report: {arguments.out / REPORT_FILE}")
    return 0


async def _evaluate(arguments: argparse.Namespace, tasks: Sequence[Task]) -> dict[str, Any]:
    settings = Settings(
        arguments.seed, arguments.limit, TestConfig(BootstrapConfig(seed=arguments.seed))
    )
    async with ClientGenerator(arguments.server) as generator:
        model = await generator.model()
        shots = arguments.shots or ((0, 3) if all(task.spec.train for task in tasks) else (0,))
        rows = await _rows(generator, arguments.adapters, shots)
        concurrency = arguments.concurrency or max(8, 2 * model["max_batch_size"])
        config = RunConfig(concurrency=concurrency, seed=arguments.seed)
        with AnswerLog(arguments.out) as log:
            with ProgressBar() as progress:
                outcomes = await run(generator, tasks, rows, log, config, progress)
            results = evaluate(tasks, rows, outcomes, arguments.seed)
            report = build_report(results, model, settings)
            write_text(arguments.out / SAMPLES_FILE, sample_lines(results))
            write_text(arguments.out / REPORT_FILE, [json.dumps(report, indent=2), "\n"])
    return report


async def _rows(
    generator: ClientGenerator, names: Sequence[str], shots: Sequence[int]
) -> tuple[Row, ...]:
    """One row per adapter; the base gets one per number of shots."""
    rows = []
    labels = {k: f"{BASE_NAME}_{k}shot" if k else BASE_NAME for k in shots}
    taken = {TRIVIAL.label, *labels.values()} if BASE_NAME in names else {TRIVIAL.label}
    for name in names:
        if name != BASE_NAME and name in taken:
            raise InputError(f"--adapters: '{name}' is a row of the report and no adapter's name")
        if name == BASE_NAME:
            rows += [Row(label, RowKind.BASE, shots=k) for k, label in labels.items()]
        else:
            rows.append(await generator.adapter_row(name))
    return tuple(rows)


if __name__ == "__main__":
    sys.exit(main())
