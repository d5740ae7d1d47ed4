"""Throughput and latency of our server on this machine, beside transformers with PEFT.

Random weights of a SmolLM-135M's shape in bf16; 16 requests at a time, 64 tokens in, 64 out,
greedy; adapters on all seven linears. Servers are real processes with a gRPC door. Everything is
measured in interleaved rounds, one process at a time, so let the machine be idle otherwise.
Progress goes to standard error, a table to standard output, and one JSON object as its last line.
"""

import argparse
import json
import signal
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import transformers

from tests.bench.bench import Bench, BenchError, Extras
from tests.bench.child import ChildError
from tests.bench.figures import figures
from tests.bench.plan import FULL_PLAN, QUICK_PLAN, Disk
from tests.bench.report import show, surroundings, tell_if_busy, write_page
from tests.bench.rounds import Clock

EXAMPLES = """\
examples:
  python -m tests.bench                  everything, in some minutes
  python -m tests.bench --quick          a tiny model: does the benchmark itself work?
  python -m tests.bench --peers .venv-peers
                                         beside vLLM's CPU build too, as make bench-peers does
  python -m tests.bench --sweep --write docs/benchmarks.md
                                         with 0 to 16 distinct adapters too, into the page

Exit code 1, with a message, where a process fails or the baseline is not at its best.
"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a tiny model and short rounds")
    add("--sweep", action="store_true", help="also by number of distinct adapters in the batch")
    add(
        "--bitsandbytes",
        action="store_true",
        help="also transformers on the NF4 base, as bitsandbytes runs it",
    )
    add(
        "--peers",
        type=Path,
        metavar="VENV",
        help="also vLLM, from this environment, which make bench-peers builds",
    )
    add("--write", type=Path, metavar="FILE", help="put the results into this page, and the plot")
    add("--rounds", type=int, metavar="N", help="of each variant (default: 3)")
    add("--threads", type=int, metavar="N", help="of each process (default: all processors)")
    options = parser.parse_args(argv)
    if options.peers is not None and not (options.peers / "bin" / "python").exists():
        parser.error(f"--peers {options.peers}: no such environment; make bench-peers builds one")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print what it found; returns the exit code."""
    options = parse(argv)
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)
    plan = QUICK_PLAN if options.quick else FULL_PLAN
    plan = replace(
        plan, rounds=options.rounds or plan.rounds, threads=options.threads or plan.threads
    )
    clock = Clock()
    # So that an end by signal, too, ends the servers.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="understudy-bench-"))
            disk = Disk(Path(folder), plan)
            disk.write()
            clock.say(f"wrote a base and {len(disk.directories)} adapters")
            extras = Extras(options.sweep, options.bitsandbytes, options.peers)
            bench = Bench(disk, stack, clock, extras)
            results = bench.play()
            if options.sweep:
                bench.sweep()
            found = figures(results, bench.facts, disk)
    except (BenchError, ChildError, OSError) as error:
        print(f"benchmark stopped: {error}", file=sys.stderr)
        return 1
    found |= surroundings(plan, bench.facts.versions)
    show(found)
    if options.write is not None:
        write_page(options.write, found)
    tell_if_busy(found["foreign_cores"], "figure")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
