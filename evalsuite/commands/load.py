"""`load`: how a server does at a given rate or concurrency, with a mix of adapters."""

import argparse
import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from evalsuite import flags
from evalsuite.aspects.efficiency import (
    EFFICIENCY_FILE,
    MemoryWatch,
    efficiency_fields,
    holdings,
)
from evalsuite.data import read_rows, read_text
from evalsuite.errors import InputError
from evalsuite.load import PERCENTILES, LoadConfig, drive, summary
from evalsuite.record import write_text
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
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help=f"keep the measurement there as {EFFICIENCY_FILE}, with the sizes of base and "
        "adapters, for `report --out DIR` to show",
    )
    parser.add_argument(
        "--metrics-url",
        metavar="URL",
        help="the server's Prometheus metrics, such as http://localhost:9090/metrics: with --out, "
        "its largest resident memory meanwhile",
    )
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
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
    if arguments.metrics_url is not None and arguments.out is None:
        raise InputError("--metrics-url: needs --out, where the memory is kept")
    found = asyncio.run(_measured(arguments, config))
    if not arguments.json:
        _print(found, Console())
    print(json.dumps(found))
    return 0 if found["num_failed"] < found["num_requests"] else 1


async def _measured(arguments: argparse.Namespace, config: LoadConfig) -> dict[str, Any]:
    """The drive's summary, kept in --out if there is one."""
    if arguments.out is None:
        return summary(await drive(arguments.server, config))
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {arguments.out}: {error.strerror}") from error
    async with MemoryWatch(arguments.metrics_url) as memory:
        found = summary(await drive(arguments.server, config))
    # Afterwards, when adapters named without a version are surely loaded.
    held = await holdings(arguments.server, config.adapters)
    fields = efficiency_fields(found, held, memory.peak_bytes)
    write_text(arguments.out / EFFICIENCY_FILE, [json.dumps(fields, indent=2), "\n"])
    return found


def _print(found: Mapping[str, Any], console: Console) -> None:
    table = Table(title=f"{found['num_requests']} requests in {found['wall_s']:.1f} s")
    table.add_column("")
    table.add_column("answered", justify="right")
    names = " / ".join(f"p{percent}" for percent in PERCENTILES)
    table.add_column(f"first token, ms\n{names}", justify="right")
    table.add_column(f"whole, ms\n{names}", justify="right")
    for label, row in {"all": found, **found["adapters"]}.items():
        cells = [_joined(row[name]) for name in ("first_token_ms", "latency_ms")]
        table.add_row(label, str(row["num_requests"] - row["num_failed"]), *cells)
    console.print(table)
    console.print(
        f"{found['requests_per_s']:.2f} requests/s, {found['tokens_per_s']:.1f} tokens/s, "
        f"up to {found['max_batch_size']} in a batch, {found['num_failed']} failed",
        highlight=False,
    )
