"""`compare`: train several methods on the same data and budget, and score them all."""

import argparse
import sys

from trainer.errors import InterruptedRunError
from trainer.verbs.train import add_config, add_output
from trainer.verbs.verb import Verb
from trainer.writing import json_line


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train each method on the same data and budget over one base, serve all of them, score "
        "them and the bare base on a task and on others, and write one table with intervals. What "
        "an interrupted comparison has done is not done again."
    )
    add_config(parser)
    parser.add_argument(
        "--methods",
        type=lambda text: tuple(part for part in text.split(",") if part),
        default=(),
        metavar="A,B,...",
        help="these only, by their names in compare.methods or as method types",
    )
    add_output(parser)


def _run(options: argparse.Namespace) -> int:
    from trainer.compare import columns, compare, lines, load_comparison
    from trainer.distributed import check_single

    check_single("compare")
    comparison = load_comparison(options.config, options.overrides, options.methods)

    def say(text: str) -> None:
        if not options.quiet:
            print(text, file=sys.stderr, flush=True)

    try:
        result = compare(comparison, say, quiet=options.quiet)
    except InterruptedRunError as error:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return error.exit_code
    if options.json:
        print(json_line(result.to_dict()))
        return 0

    from rich.console import Console
    from rich.table import Table

    title = f"{result.task}, {result.num_samples} samples, 95% intervals"
    table = Table(title=title, title_justify="left", highlight=False)
    for number, name in enumerate(columns(result)):
        table.add_column(name, justify="right" if number else "left")
    for line in lines(result):
        table.add_row(*line)
    width = None if sys.stdout.isatty() else 200
    Console(width=width).print(table)
    for label, reason in result.failed.items():
        print(f"{label} was not trained: {reason}")
    print(f"{comparison.directory}: compare.md, compare.html, compare.png, compare.json")
    return 0


VERB = Verb("compare", "compare methods on the same data and budget", _add_arguments, _run)
