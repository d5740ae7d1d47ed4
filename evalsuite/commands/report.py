"""`report`: a run as one HTML page, as Markdown and as JSON; with --server it asks first."""

import argparse
import json
from pathlib import Path

from evalsuite import flags
from evalsuite.aspects.efficiency import read_efficiency
from evalsuite.commands.common import evaluated, wanted
from evalsuite.commands.matrix import MATRIX_FILE, add_matrix, make_matrix, with_text
from evalsuite.commands.run import default_shots, word_lists, write_report
from evalsuite.record import REPORT_FILE, write_text
from evalsuite.reports.markdown import report_markdown
from evalsuite.reports.matrix_fields import matrix_fields
from evalsuite.reports.page import html_page
from evalsuite.session import Plan, Played
from evalsuite.types import RowKind

HTML_FILE = "report.html"
MARKDOWN_FILE = "report.md"


def add(parser: argparse.ArgumentParser) -> None:
    """Flags of `report`."""
    flags.add_rows(parser, required=False)
    flags.add_asking(
        parser,
        "worked examples in the base's prompt, one row each (default: 0,3; 0 if a task has no "
        "training file)",
        required=False,
    )
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
    add_matrix(parser)
    flags.add_aspects(parser)
    parser.set_defaults(call=_report)


def _report(arguments: argparse.Namespace) -> int:
    def use(plan: Plan, played: Played) -> list[Path]:
        kinds = [cell.row.kind for cell in played.results[0].cells.values()]
        matrix = None
        if RowKind.BASE in kinds and len(set(kinds) - {RowKind.TRIVIAL}) > 1:
            matrix = matrix_fields(make_matrix(arguments, plan, played))
        report = write_report(arguments, plan, played)
        cost = read_efficiency(arguments.out)
        page = html_page(
            arguments.title, report, matrix, cost, played.results, arguments.max_samples
        )
        written = [arguments.out / name for name in (HTML_FILE, MARKDOWN_FILE, REPORT_FILE)]
        write_text(written[0], [page])
        write_text(written[1], [report_markdown(report, matrix, cost)])
        return written + ([] if matrix is None else [arguments.out / MATRIX_FILE])

    word_lists(arguments)
    asked = wanted(arguments, arguments.adapters or (), with_text(arguments), default_shots)
    written = evaluated(arguments, asked, use)
    if arguments.json:
        print(json.dumps({"written": [str(path) for path in written]}))
    else:
        for path in written:
            print(path)
    return 0
