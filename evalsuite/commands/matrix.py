"""`matrix`: what each adapter gained on its own task and what it forgot on the others."""

import argparse
import json

from rich.console import Console

from evalsuite import flags
from evalsuite.aspects.robustness import split_perturbed
from evalsuite.commands.common import add_tests, evaluated, test_config, wanted
from evalsuite.commands.run import write_report
from evalsuite.record import write_text
from evalsuite.reports.matrix import Matrix, MatrixSettings, build_matrix
from evalsuite.reports.matrix_fields import matrix_fields
from evalsuite.reports.matrix_table import print_matrix
from evalsuite.session import Plan, Played
from evalsuite.stats import Correction
from understudy.artifact import BASE_NAME

MATRIX_FILE = "matrix.json"


def add(parser: argparse.ArgumentParser) -> None:
    """Flags of `matrix`."""
    flags.add_rows(parser, required=False)
    flags.add_asking(parser, "worked examples in the base's prompt (default: 0)", required=False)
    add_matrix(parser)
    parser.set_defaults(call=_matrix)


def add_matrix(parser: argparse.ArgumentParser) -> None:
    """Flags that say how a matrix is made."""
    parser.add_argument(
        "--own",
        type=flags.pairs,
        default={},
        metavar="ADAPTER=TASK,...",
        help="the task each adapter was trained for (default: the one of its name)",
    )
    parser.add_argument(
        "--sequence",
        type=flags.names,
        default=(),
        metavar="A,B,C",
        help="adapters trained one after the other, each from the one before: backward transfer",
    )
    parser.add_argument(
        "--text",
        metavar="FILE",
        help="general text, whose change in bits per byte stands beside the tasks",
    )
    add_tests(parser, Correction.HOLM)


def with_text(arguments: argparse.Namespace) -> list[str]:
    """--tasks, and --text as one of them."""
    tasks = list(arguments.tasks or ())
    return [*tasks, f"text={arguments.text}"] if arguments.text else tasks


def make_matrix(arguments: argparse.Namespace, plan: Plan, played: Played) -> Matrix:
    """Builds the matrix and writes `matrix.json`; after asking, the run's report too."""
    settings = MatrixSettings(
        test_config(arguments, plan.seed),
        arguments.correction,
        arguments.own,
        arguments.sequence,
    )
    results, _ = split_perturbed(played.results)
    matrix = build_matrix(results, played.models, settings, plan.seed)
    if arguments.server is not None:
        write_report(arguments, plan, played)
    fields = matrix_fields(matrix)
    write_text(arguments.out / MATRIX_FILE, [json.dumps(fields, indent=2), "\n"])
    return matrix


def _matrix(arguments: argparse.Namespace) -> int:
    rows = [name for name in arguments.adapters or () if name != BASE_NAME]
    asked = wanted(arguments, [BASE_NAME, *rows], with_text(arguments))

    def use(plan: Plan, played: Played) -> dict[str, object]:
        matrix = make_matrix(arguments, plan, played)
        if not arguments.json:
            print_matrix(matrix, Console())
            print(f"matrix: {arguments.out / MATRIX_FILE}")
        return matrix_fields(matrix)

    fields = evaluated(arguments, asked, use)
    if arguments.json:
        print(json.dumps(fields))
    return 0
