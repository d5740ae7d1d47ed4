"""`report`: a finished run as one HTML page, as Markdown and as JSON; asks nobody."""

import argparse
import json
from pathlib import Path

from evalsuite import flags
from evalsuite.commands.common import add_tests, evaluated
from evalsuite.commands.matrix import MATRIX_FILE, make_matrix
from evalsuite.commands.run import write_report
from evalsuite.record import REPORT_FILE, write_text
from evalsuite.reports.markdown import report_markdown
from evalsuite.reports.matrix import matrix_fields
from evalsuite.reports.page import html_page
from evalsuite.session import Plan, Played
from evalsuite.stats import Correction
from evalsuite.types import RowKind

HTML_FILE = "report.html"
MARKDOWN_FILE = "report.md"


def add(parser: argparse.ArgumentParser) -> None:
    """Flags of `report`."""
    parser.add_argument("--tasks", type=flags.names, metavar="T,U", help="some of the run's tasks")
    parser.add_argument(
        "--title", default="What each adapter gained", help="of the page (default: %(default)s)"
    )
    parser.add_argument(
        "--max-samples",
        type=flags.positive,
        default=1000,
        metavar="N",
        help="samples of each task in the page (default: 1000); samples.jsonl has all",
    )
    parser.add_argument(
        "--own",
        type=flags.pairs,
        default={},
        metavar="ADAPTER=TASK,...",
        help="the task each adapter was trained for (default: the one of its name)",
    )
    parser.add_argument(
        "--sequence", type=flags.names, default=(), metavar="A,B,C", help="as in `matrix`"
    )
    add_tests(parser, Correction.HOLM)
    flags.add_out(parser)
    parser.set_defaults(call=_report)


def _report(arguments: argparse.Namespace) -> int:
    def use(plan: Plan, played: Played) -> list[Path]:
        kinds = [cell.row.kind for cell in played.results[0].cells.values()]
        matrix = None
        if RowKind.BASE in kinds and len(set(kinds) - {RowKind.TRIVIAL}) > 1:
            matrix = matrix_fields(make_matrix(arguments, plan, played))
        report = write_report(arguments, plan, played)
        page = html_page(arguments.title, report, matrix, played.results, arguments.max_samples)
        written = [arguments.out / name for name in (HTML_FILE, MARKDOWN_FILE, REPORT_FILE)]
        write_text(written[0], [page])
        write_text(written[1], [report_markdown(report, matrix)])
        return written + ([] if matrix is None else [arguments.out / MATRIX_FILE])

    written = evaluated(arguments, None, use)
    if arguments.json:
        print(json.dumps({"written": [str(path) for path in written]}))
    else:
        for path in written:
            print(path)
    return 0
