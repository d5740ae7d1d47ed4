"""Evaluates what `python -m demo --out DIR` has kept: run, matrix, report and gate in one go.

Starts a server on the demo's base and store, measures it under load, asks base and adapters about
every task, prints scores and matrix, writes one HTML page and lets the gate decide whether the
first adapter may replace the bare base on its task.

Exit codes: 0 the gate is open; 1 it is shut, or a part failed; 2 wrong arguments; 130 Ctrl-C.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from demo.roles import BASE, PROSE, ROLES, TASKS
from understudy import processes
from understudy.processes import ChildError, python

_ADAPTERS = ",".join(["base", *(role.adapter for role in ROLES)])
_CHANGED = "review_label+typos"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m demo.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python -m demo.evaluate demo-run\n"
        "  python -m demo.evaluate demo-run --out runs/demo --limit 200",
    )
    parser.add_argument("demo_run", type=Path, metavar="DIR", help="what `demo --out DIR` kept")
    parser.add_argument("--out", type=Path, help="of the results (default: DIR/report)")
    parser.add_argument(
        "--limit", type=int, default=100, metavar="N", help="first N samples of each task (100)"
    )
    return parser


def commands(directory: Path, out: Path, address: str, limit: int) -> dict[str, list[str]]:
    """The commands, by the title of their stage, in their order."""
    to, data = ["--out", str(out)], directory / "data"
    tasks = ",".join([*TASKS, _CHANGED, f"text={PROSE}"])
    own = ["--own", ",".join(f"{role.adapter}={role.task}" for role in ROLES)]
    ask = ["--server", address, "--adapters", _ADAPTERS, "--tasks", tasks, "--shots", "0,3"]
    first = ["--limit", str(limit)]
    load = ["--server", address, "--adapters", _ADAPTERS, "--requests", "60", "--max-tokens", "16"]
    load += ["--prompts", str(data / "review_label.test.jsonl"), "--concurrency", "4"]
    gate = ["--candidate", ROLES[0].adapter, "--baseline", "base", "--tasks", ROLES[0].task]
    return {
        "What the rows cost": python("evalsuite", "load", *load, *to),
        "Scores": python("evalsuite", "run", *ask, *first, "--data-dir", str(data), *to),
        "Gained and forgotten": python("evalsuite", "matrix", *own, *to),
        "The page": python("evalsuite", "report", *own, *to),
        "The gate": python("evalsuite", "gate", *gate, *to),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs everything; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    directory: Path = arguments.demo_run
    if not (directory / "store").is_dir() or not (directory / "data").is_dir():
        print(
            f"demo.evaluate: {directory} holds no store and data of the demo; make them with "
            f"python -m demo --out {directory}",
            file=sys.stderr,
        )
        return 2
    if arguments.limit < 1:
        print("demo.evaluate: --limit must be at least 1", file=sys.stderr)
        return 2
    out = arguments.out or directory / "report"
    console, started = Console(), time.monotonic()
    flags = ["--base", str(BASE), "--quantization", "nf4", "--name", "understudy-nano"]
    try:
        with processes.server([*flags, "--store", str(directory / "store")], directory) as server:
            for title, command in commands(directory, out, server.address, arguments.limit).items():
                elapsed = time.monotonic() - started
                console.rule(f"[bold]{title}[/]  ({elapsed:.0f} s)", align="left")
                processes.run(command, title)
    except (ChildError, OSError) as error:
        print(f"demo.evaluate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    console.print(f"{out / 'report.html'}  ({time.monotonic() - started:.0f} s in all)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
