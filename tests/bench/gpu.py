"""What one CUDA device gives: its ceilings, Triton's kernels against them, and decode steps.

A Llama-3-8B's shape with random weights, in NF4, computing in bf16. Each section is a process of
its own with a time limit, five times as long off CUDA; it prints one JSON line and appends it to
DIR/results.jsonl. What succeeded there on this device is not run again, what failed is. Nothing is
compared with a number taken elsewhere.

Exit codes: 0 every section that was asked for has run, now or before; 1 one failed (its line has
the `error`, DIR/logs the rest); 2 wrong arguments.
"""

import argparse
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.gpu_child import run_alone
from tests.bench.gpu_results import Results
from tests.bench.gpu_sections import SECTIONS, device_name, play

EXAMPLES = """\
examples:
  python -m tests.bench.gpu --work /tmp/gpu
  python -m tests.bench.gpu --work /tmp/gpu --sections linear,lora
  python -m tests.bench.gpu --work /tmp/gpu --write docs/benchmarks.md
  python -m tests.bench.gpu --work /tmp/gpu --quick      a tiny model, anywhere: does it run?

sections, and the seconds that each may take:
"""
_HEAVY = ["tests.bench.gpu_kernels", "tests.bench.gpu_engine", "tests.bench.gpu_baseline"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the sections that have not succeeded yet; returns the exit code."""
    limits = "\n".join(f"  {name:20} {section.limit_s}" for name, section in SECTIONS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.gpu", description=__doc__, epilog=EXAMPLES + limits,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="for all files")
    parser.add_argument("--sections", metavar="A,B", help="only these (default: all)")
    parser.add_argument("--quick", action="store_true", help="a tiny model, without CUDA too")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="put what DIR holds of this device into this page",
    )
    options = parser.parse_args(argv)
    if options.write is not None and options.quick:
        parser.error("--write: figures of a tiny model belong on no page; leave --quick out")
    wanted = options.sections.split(",") if options.sections else list(SECTIONS)
    if unknown := [name for name in wanted if name not in SECTIONS]:
        parser.error(f"--sections: no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    import torch

    has_cuda = torch.cuda.is_available()
    if not (has_cuda or options.quick):
        parser.error("this machine, or this torch, has no CUDA; --quick runs anywhere")
    method, slowness = "spawn", 1
    if not has_cuda:
        slowness = 5
        # Triton reads it when a kernel is defined.
        os.environ["TRITON_INTERPRET"] = "1"
        # Imports once for all sections. A process that has asked for CUDA must not be forked, and
        # libraries ask for it as they are imported.
        method = "forkserver"
        multiprocessing.set_forkserver_preload(_HEAVY)
    # So that an end by signal, too, ends the section's process.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    logs = options.work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    named = run_alone(
        device_name, (), limit_s=slowness * 120, log=logs / "device.log", method=method
    )
    if "found" not in named:
        print(f"the device's name: {named['error']}", file=sys.stderr)
        return 1
    results = Results(options.work / "results.jsonl", named["found"], quick=options.quick)
    failed = False
    for name in wanted:
        if results.is_done(name):
            continue
        print(f"section {name}", file=sys.stderr, flush=True)
        answer = run_alone(
            play, (name, options.work, options.quick),
            limit_s=slowness * SECTIONS[name].limit_s, log=logs / f"{name}.log", method=method,
        )  # fmt: skip
        print(results.add(name, answer), flush=True)
        failed |= "error" in answer
    if options.write is not None:
        from tests.bench.gpu_page import write_page

        write_page(options.write, results.latest())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
