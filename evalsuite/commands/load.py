"""`load`: how a server does at a given rate or concurrency, with a mix of adapters."""

import argparse
import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from evalsuite import flags
from evalsuite.data import read_rows, read_text
from evalsuite.errors import InputError
from evalsuite.load import PERCENTILES, LoadConfig, drive, summary
from understudy.artifact import BASE_NAME


def add(parser: argparse.ArgumentParser) -> None:
    """Flags of `load`."""
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument(
        "--adapters",
        type=flags.names,
        default=(BASE_NAME,),
        metavar="A,B",
        help="whom requests name, most popular first (default: base)",
    )
    parser.add_argument(
        "--mix",
        type=mix,
        default=0.0,
        metavar="uniform|zipf:S",
        help="all adapters alike, or popularity 1 / rank^S (default: uniform)",
    )
    parser.add_argument(
        "--prompts",
        type=Path,
        required=True,
        metavar="FILE",
        help="inputs: the column `input` of a .jsonl file, or the lines of a text file",
    )
    pace = parser.add_mutually_exclusive_group(required=True)
    pace.add_argument(
        "--rate",
        type=flags.above_zero,
        metavar="R",
        help="requests per second, at random times, whether or not earlier ones are answered",
    )
    pace.add_argument(
        "--concurrency", type=flags.positive, metavar="N", help="requests in flight at a time"
    )
    parser.add_argument(
        "--requests", type=flags.positive, default=200, metavar="N", help="in all (default: 200)"
    )
    parser.add_argument(
        "--max-tokens", type=flags.positive, default=32, metavar="N", help="each (default: 32)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    parser.set_defaults(call=_load)


def mix(text: str) -> float:
    """The exponent of `uniform` or `zipf:S`."""
    kind, _, exponent = text.partition(":")
    if text == "uniform":
        return 0.0
    if kind == "zipf" and exponent:
        return flags.number(exponent)
    raise argparse.ArgumentTypeError(f"'{text}' is neither uniform nor zipf:S, such as zipf:1.1")


def read_prompts(path: Path) -> tuple[str, ...]:
    """The inputs of a file. Raises InputError for one without any."""
    if path.suffix == ".jsonl":
        found = [row.get("input") for _, row in read_rows(path)]
        if not all(isinstance(text, str) for text in found):
            raise InputError(f"{path}: every row needs a text in the column 'input'")
        prompts = [str(text) for text in found]
    else:
        prompts = [line for line in read_text(path).splitlines() if line.strip()]
    if not prompts:
        raise InputError(f"{path}: no inputs")
    return tuple(prompts)


def _joined(percentiles: Mapping[str, float | None]) -> str:
    return " / ".join("-" if value is None else f"{value:.0f}" for value in percentiles.values())


def _load(arguments: argparse.Namespace) -> int:
    config = LoadConfig(
        adapters=tuple("" if name == BASE_NAME else name for name in arguments.adapters),
        prompts=read_prompts(arguments.prompts),
        num_requests=arguments.requests,
        rate=arguments.rate,
        concurrency=arguments.concurrency or 1,
        zipf=arguments.mix,
        max_tokens=arguments.max_tokens,
        seed=arguments.seed,
    )
    found = summary(asyncio.run(drive(arguments.server, config)))
    table = Table(title=f"{found['num_requests']} requests in {found['wall_s']:.1f} s")
    table.add_column("")
    table.add_column("answered", justify="right")
    names = " / ".join(f"p{percent}" for percent in PERCENTILES)
    table.add_column(f"first token, ms\n{names}", justify="right")
    table.add_column(f"whole, ms\n{names}", justify="right")
    whole = {**found, "num_requests": found["num_requests"] - found["num_failed"]}
    for label, row in {"all": whole, **found["adapters"]}.items():
        cells = [_joined(row[name]) for name in ("first_token_ms", "latency_ms")]
        table.add_row(label, str(row["num_requests"]), *cells)
    console = Console()
    console.print(table)
    console.print(
        f"{found['requests_per_s']:.2f} requests/s, {found['tokens_per_s']:.1f} tokens/s, "
        f"up to {found['max_batch_size']} in a batch, {found['num_failed']} failed",
        highlight=False,
    )
    print(json.dumps(found))
    return 0 if found["num_failed"] < found["num_requests"] else 1
