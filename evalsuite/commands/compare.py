"""`compare --blind`: a page for side-by-side judgement by people; `votes`: what they said."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from evalsuite import flags
from evalsuite.commands.common import evaluated
from evalsuite.errors import InputError
from evalsuite.judging import judge, judgement_fields
from evalsuite.record import write_text
from evalsuite.reports.blind import BlindPage, blind_page, read_key, read_votes
from evalsuite.session import Plan, Played

PAGE_FILE = "blind.html"
KEY_FILE = "blind-key.json"


def add(parser: argparse.ArgumentParser) -> None:
    """Flags of `compare`."""
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument(
        "--blind", action="store_true", help="write a page without names, and its key beside it"
    )
    mode.add_argument(
        "--votes", type=Path, nargs="+", metavar="FILE", help="count the votes that judges saved"
    )
    parser.add_argument(
        "--adapters", type=flags.names, metavar="A,B", help="rows of the run in --out to compare"
    )
    parser.add_argument("--tasks", type=flags.names, metavar="T,U", help="some of the run's tasks")
    parser.add_argument(
        "--pairs", type=flags.positive, default=100, metavar="N", help="on the page (default: 100)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    flags.add_out(parser)
    parser.set_defaults(call=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    if arguments.blind:
        return _write_page(arguments)
    key = read_key(arguments.out / KEY_FILE)
    votes = [vote for path in arguments.votes for vote in read_votes(path, key)]
    if not votes:
        raise InputError("--votes: no votes in these files")
    fields = judgement_fields(judge(votes, seed=arguments.seed))
    if arguments.json:
        print(json.dumps(fields))
        return 0
    table = Table(title=f"{fields['num_votes']} votes of {fields['num_judges']} judges")
    for title in ("", "beside", "better", "worse", "neither", "win rate"):
        table.add_column(title)
    for pair in fields["pairs"]:
        interval = f"\\[{pair['ci_low']:.2f}, {pair['ci_high']:.2f}]"
        counts = [str(pair[name]) for name in ("wins", "losses", "ties")]
        table.add_row(pair["first"], pair["second"], *counts, f"{pair['win_rate']:.2f} {interval}")
    console = Console()
    console.print(table)
    for label, found in fields["bradley_terry"].items():
        console.print(
            f"{label}: Bradley-Terry {found['strength']:+.2f} "
            f"[{found['ci_low']:+.2f}, {found['ci_high']:+.2f}]",
            markup=False,
            highlight=False,
        )
    alpha = fields["krippendorff_alpha"]
    console.print(
        "agreement: no two judges voted on the same pair, or all voted alike"
        if alpha is None
        else f"agreement of judges (Krippendorff's alpha): {alpha:.2f}",
        highlight=False,
    )
    return 0


def _write_page(arguments: argparse.Namespace) -> int:
    rows = arguments.adapters or ()
    if len(rows) < 2:
        raise InputError("--adapters: needs at least two rows to compare")

    def use(plan: Plan, played: Played) -> BlindPage:
        return blind_page(played.results, rows, arguments.pairs, arguments.seed)

    page = evaluated(arguments, None, use)
    written = [arguments.out / PAGE_FILE, arguments.out / KEY_FILE]
    write_text(written[0], [page.html])
    write_text(written[1], [json.dumps(asdict(page.key), indent=2), "\n"])
    if arguments.json:
        print(json.dumps({"written": [str(path) for path in written]}))
    else:
        print(f"{written[0]}: {len(page.key.pairs)} pairs, for judges")
        print(f"{written[1]}: whose they are; keep it from them")
    return 0
