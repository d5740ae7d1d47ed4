"""Thousands of registered adapters: what an idle one costs, and what loading one costs others.

A store of 10,000 adapters of rank 8 on a base of SmolLM-135M's shape in bf16, and real server
processes with a gRPC door. What is measured:

- what the server's process grows by, for each adapter, when nearly all of them are added to the
  store of a server that has listed what was there, and listed again;
- the first token of an adapter that lies on disk only (not in the page cache), against the same
  adapter's in its device slot, one request at a time;
- the time between tokens of eight streams while 100 adapters are loaded, against the same streams
  while nothing else happens, in turn: ten adapters, then nothing for as long, each time with fresh
  streams, as a step takes longer the more tokens they have.

Progress goes to standard error, a table to standard output, and one JSON object as its last line.
"""

import argparse
import asyncio
import json
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from server.config import AdaptersConfig
from tests.bench.loading import (
    FirstTokens,
    Window,
    first_tokens,
    heap_bytes,
    list_all,
    resident_bytes,
    tokens_while,
    unload,
)
from tests.bench.machine import busy_s, used_s
from tests.bench.registry import Registry
from tests.bench.report import markdown, surroundings, tell_if_busy
from tests.bench.rounds import Clock
from tests.bench.shape import FULL, MANY_RANK, TINY, Shape
from tests.process import ServerProcess, start

_MARKS = re.compile(
    r"(<!-- measured adapters: .*? -->\n).*?(<!-- end of measured adapters -->)", re.DOTALL
)
_CACHE_BYTES = 1 << 28
_WARM_S = 2.0
_LISTINGS = 4
"""Before memory is read: what one listing needs for itself, the next ones take again."""


@dataclass(frozen=True)
class Plan:
    """What is run."""

    shape: Shape
    num_registered: int
    num_loaded: int
    loads_per_window: int
    rounds: int
    num_cold: int
    streams: int
    prompt_tokens: int
    stream_tokens: int
    threads: int


FULL_PLAN = Plan(
    shape=FULL,
    num_registered=10_000,
    num_loaded=100,
    loads_per_window=10,
    rounds=5,
    num_cold=20,
    streams=8,
    prompt_tokens=64,
    stream_tokens=1900,
    threads=2,
)
QUICK_PLAN = Plan(
    shape=TINY,
    num_registered=200,
    num_loaded=6,
    loads_per_window=3,
    rounds=1,
    num_cold=3,
    streams=2,
    prompt_tokens=8,
    stream_tokens=1900,
    threads=1,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print what it found; returns the exit code."""
    options = _parse(argv)
    plan = QUICK_PLAN if options.quick else FULL_PLAN
    plan = replace(
        plan,
        rounds=options.rounds or plan.rounds,
        num_registered=options.registered or plan.num_registered,
        threads=options.threads or plan.threads,
    )
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    clock = Clock()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="understudy-bench-")))
        registry = Registry(folder, plan.shape, plan.num_registered, plan.num_loaded)
        registry.write()
        clock.say(f"wrote a base and {plan.num_registered} adapters")
        found = _measure(plan, registry, options.load_share, stack, clock)
    found |= surroundings(plan, {}, "tests.bench.adapters")
    _show(found)
    if options.write is not None:
        _write(options.write, found)
    tell_if_busy(found["foreign_cores"], "time")
    print(json.dumps(found))
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.adapters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a tiny model, few adapters and short rounds")
    add("--rounds", type=int, metavar="N", help="of each variant (default: 5)")
    add("--registered", type=int, metavar="N", help="adapters in the store (default: 10000)")
    add("--threads", type=int, metavar="N", help="of the server's products (default: 2)")
    add(
        "--load-share",
        type=float,
        metavar="X",
        default=AdaptersConfig().load_share,
        help="adapters.load_share of the server (default: the server's)",
    )
    add("--write", type=Path, metavar="FILE", help="put the results into this page")
    return parser.parse_args(argv)


def _measure(
    plan: Plan, registry: Registry, load_share: float, stack: ExitStack, clock: Clock
) -> dict[str, Any]:
    server = _start(plan, registry, load_share)
    stack.callback(server.process.wait)
    stack.callback(server.process.terminate)
    found: dict[str, Any] = {
        "load_share": load_share,
        "adapter_bytes": plan.shape.lora_bytes(MANY_RANK),
    }
    found |= _registered(server, registry)
    clock.say(f"an idle adapter takes {found['idle_adapter_bytes']} bytes")

    random_tokens = random.Random(0)

    def prompts(count: int) -> list[list[int]]:
        vocab = plan.shape.vocab
        return [
            [random_tokens.randrange(300, vocab) for _ in range(plan.prompt_tokens)]
            for _ in range(count)
        ]

    # Warm, before anything is timed.
    asyncio.run(
        tokens_while(
            server.address, registry, prompts(plan.streams),
            num_tokens=plan.stream_tokens, window_s=_WARM_S,
        )
    )  # fmt: skip
    before = _load_s(server)
    tokens = asyncio.run(first_tokens(server.address, registry, prompts(2 * plan.num_cold)))
    seconds, count = (b - a for a, b in zip(before, _load_s(server), strict=True))
    found |= _first_token_figures(tokens, seconds / count)
    asyncio.run(unload(server.address, registry.loaded[: plan.num_cold]))
    clock.say(f"first token: {found['cold_ms']} ms cold, {found['warm_ms']} ms warm")

    others = _Others(server.process.pid)
    quiet: list[Window] = []
    loading: list[Window] = []
    for number in range(plan.rounds):
        pair = _round(plan, server, registry, prompts)
        for windows, window in zip((quiet, loading), pair, strict=True):
            windows.append(window)
        clock.say(
            f"round {number + 1}: p99 between tokens {_p(quiet[-1], 99):.1f} ms, while loading "
            f"{_p(loading[-1], 99):.1f} ms"
        )
    found |= _gap_figures(quiet, loading)
    found["foreign_cores"] = round(others.cores(), 2)
    found["loads_per_s"] = round(median(w.num_loaded / w.duration_s for w in loading), 1)
    found["load_mb_per_s"] = round(found["loads_per_s"] * found["adapter_bytes"] / 1e6, 1)
    return found


def _round(
    plan: Plan,
    server: ServerProcess,
    registry: Registry,
    prompts: Callable[[int], list[list[int]]],
) -> tuple[Window, Window]:
    """(without loading, while loading): windows of the same length in turn, each with streams that
    begin anew. A step takes longer the longer its contexts are, by more than loading adds."""
    quiet, loading = Window(), Window()
    duration_s = 0.0
    for number, begin in enumerate(range(0, plan.num_loaded, plan.loads_per_window)):
        names = registry.loaded[begin : begin + plan.loads_per_window]
        registry.drop_page_cache(names)
        for load in (names, []) if number % 2 == 0 else ([], names):
            window = asyncio.run(
                tokens_while(
                    server.address, registry, prompts(plan.streams),
                    num_tokens=plan.stream_tokens, load=load, window_s=duration_s,
                )
            )  # fmt: skip
            if load:
                loading += window
                duration_s = window.duration_s
                asyncio.run(unload(server.address, names))
            else:
                quiet += window
    return quiet, loading


class _Others:
    """Processors that were busy with neither the server nor this process, since it was made."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._begin = self._read()

    def cores(self) -> float:
        """On average."""
        (began, foreign), (ended, now) = self._begin, self._read()
        return max(0.0, (now - foreign) / (ended - began))

    def _read(self) -> tuple[float, float]:
        return time.monotonic(), busy_s() - used_s(self._pid) - time.process_time()


def _start(plan: Plan, registry: Registry, load_share: float) -> ServerProcess:
    folder = registry.folder / "server"
    folder.mkdir()
    arguments = (
        "--base", registry.base, "--store", registry.store, "--log-level", "warning",
        "--quantization", "none", "--dtype", "bfloat16",
        "--set", f"engine.cache_bytes={_CACHE_BYTES}",
        "--set", f"adapters.load_share={load_share}",
    )  # fmt: skip
    return start(folder, arguments, plan.threads)


def _registered(server: ServerProcess, registry: Registry) -> dict[str, Any]:
    """What the server's process grows by when most adapters are added to its store, and the time
    it takes to list them."""

    def seconds() -> list[float]:
        return [asyncio.run(list_all(server.address))[1] for _ in range(_LISTINGS)]

    seconds()
    before = resident_bytes(server.process.pid)
    num_more = registry.write_linked()
    first, *again = seconds()
    grown = resident_bytes(server.process.pid) - before
    num_listed, _ = asyncio.run(list_all(server.address))
    if num_listed != registry.num_registered:
        raise RuntimeError(f"{num_listed} adapters listed, {registry.num_registered} registered")
    return {
        "num_registered": num_listed,
        "idle_adapter_bytes": round(grown / num_more),
        "idle_adapter_heap_bytes": round(heap_bytes(registry.store) / num_listed),
        "first_list_s": round(first, 3),
        "list_s": round(median(again), 3),
    }


def _load_s(server: ServerProcess) -> tuple[float, float]:
    """Seconds that the server has taken to read and check adapters, and how many."""
    name = "understudy_adapter_load_seconds"
    return server.sample(f"{name}_sum", tier="host"), server.sample(f"{name}_count", tier="host")


def _first_token_figures(tokens: FirstTokens, load_s: float) -> dict[str, Any]:
    cold, warm, read = (median(s) for s in (tokens.cold_s, tokens.warm_s, tokens.read_s))
    return {
        "cold_ms": round(1e3 * cold, 1),
        "cold_ms_spread": _spread(tokens.cold_s),
        "warm_ms": round(1e3 * warm, 1),
        "warm_ms_spread": _spread(tokens.warm_s),
        "read_ms": round(1e3 * read, 1),
        "cold_vs_warm_and_read": round(cold / (warm + read), 3),
        "load_ms": round(1e3 * load_s, 1),
        "cold_vs_warm_and_load": round(cold / (warm + load_s), 3),
    }


def _gap_figures(quiet: Sequence[Window], loading: Sequence[Window]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for percent in (50, 99):
        before = [_p(window, percent) for window in quiet]
        during = [_p(window, percent) for window in loading]
        found |= {
            f"itl_ms_p{percent}": round(median(before), 1),
            f"itl_ms_p{percent}_rounds": [round(value, 1) for value in before],
            f"itl_ms_p{percent}_loading": round(median(during), 1),
            f"itl_ms_p{percent}_loading_rounds": [round(value, 1) for value in during],
            f"itl_p{percent}_ratio": round(median(during) / median(before), 3),
        }
    return found


def _p(window: Window, percent: float) -> float:
    return 1e3 * float(np.percentile(window.gaps_s, percent))


def _spread(seconds: Sequence[float]) -> list[float]:
    return [round(1e3 * min(seconds), 1), round(1e3 * max(seconds), 1)]


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Each figure with its sentence."""
    lines = {
        "idle_adapter_bytes": "{idle_adapter_bytes} bytes that the server's process grew by for "
        "each of {num_registered} registered adapters that nobody uses; the catalog's own objects "
        "take {idle_adapter_heap_bytes}",
        "list_s": "{list_s} s to list them all in pages of 1000; {first_list_s} s the first time",
        "cold_vs_warm_and_read": "{cold_vs_warm_and_read} of a warm first token plus reading the "
        "files: {cold_ms} ms cold ({cold_ms_spread[0]} to {cold_ms_spread[1]}), {warm_ms} ms warm "
        "({warm_ms_spread[0]} to {warm_ms_spread[1]}), {read_ms} ms to read",
        "cold_vs_warm_and_load": "{cold_vs_warm_and_load} of a warm first token plus what the "
        "server took to read and check them, {load_ms} ms on average",
        "itl_p99_ratio": "{itl_p99_ratio} of the p99 between tokens, with loading against "
        "without: {itl_ms_p99_loading} and {itl_ms_p99} ms "
        "(rounds {itl_ms_p99_loading_rounds} and {itl_ms_p99_rounds})",
        "itl_p50_ratio": "{itl_p50_ratio} of the median: {itl_ms_p50_loading} and {itl_ms_p50} ms",
        "loads_per_s": "{loads_per_s} adapters of rank 8 a second meanwhile, {load_mb_per_s} MB/s, "
        "by one thread with adapters.load_share {load_share}",
        "foreign_cores": "{foreign_cores} processors busy with something else meanwhile",
    }
    return [(name, text.format(**found)) for name, text in lines.items()]


def _show(found: dict[str, Any]) -> None:
    table = Table(box=box.SIMPLE, show_header=False)
    for row in _rows(found):
        table.add_row(*row)
    Console(width=110).print(table)


def _write(page: Path, found: dict[str, Any]) -> None:
    text = page.read_text(encoding="utf-8")
    if not _MARKS.search(text):
        raise ValueError(f"{page}: has no part between marks that begin `<!-- measured adapters:`")
    lines = [
        f"Measured {found['date']} with `{found['command']}`: {found['rounds']} rounds of each,",
        f"{found['threads']} threads, {found['cpu']}.",
        "",
        *markdown(("figure", ""), _rows(found)),
    ]
    part = "\n".join(lines)
    page.write_text(_MARKS.sub(lambda m: m[1] + part + "\n" + m[2], text), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
