"""Makes the ready-made adapters of the demo anew: trains them all and replaces the store.

Needed whenever the embedded base, a task's generator or a configuration changes. The same base,
number of threads and processor give the same versions.

Exit codes: 0 done; 1 a part failed; 2 wrong arguments; 130 Ctrl-C. Where a training fails or
is interrupted, the store is as it was.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from demo.ready import NotReadyError, find_ready
from demo.roles import BASE, QUANTIZATION, ROLES, STORE, Role
from demo.training import make_data, train
from understudy import store
from understudy.artifact import ArtifactError
from understudy.processes import ChildError

# Of the trainer; rounding depends on it.
NUM_THREADS = 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m demo.adapters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python -m demo.adapters                    all of them\n"
        "  python -m demo.adapters --only order-json  one of them\n"
        "  python -m demo.adapters --check            only whether they fit the base",
    )
    parser.add_argument("--only", metavar="NAME,...", help="of the adapters (default: all)")
    parser.add_argument("--base", type=Path, default=BASE, help="base model (default: embedded)")
    parser.add_argument(
        "--store", type=Path, default=STORE, help="to replace (default: demo/store)"
    )
    parser.add_argument(
        "--max-steps", type=int, metavar="N", help="train so short, only to see that it runs"
    )
    parser.add_argument("--check", action="store_true", help="train nothing, only check them")
    return parser


def make(roles: Sequence[Role], base: Path, root: Path, max_steps: int | None = None) -> None:
    """Trains `roles` on `base` and replaces their versions in the store `root`.

    Raises ChildError if a training fails, before anything is replaced.
    """
    console, started = Console(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="understudy-adapters-") as folder:
        work = Path(folder)
        (work / "data").mkdir()
        make_data(work / "data", dict.fromkeys(role.task for role in roles), num_test=1)
        settings = [f"num_threads={NUM_THREADS}"]
        settings += [] if max_steps is None else [f"optimiser.max_steps={max_steps}"]
        for number, role in enumerate(roles, 1):
            elapsed = time.monotonic() - started
            title = f"[bold]{number} of {len(roles)}: {role.adapter}[/]  ({elapsed:.0f} s)"
            console.rule(title, align="left")
            train(role, work, base, QUANTIZATION, *settings)
        for role in roles:
            shutil.rmtree(root / role.adapter, ignore_errors=True)
            (version,) = store.versions(work / "store", role.adapter)
            made = store.version_directory(work / "store", role.adapter, version)
            store.publish(made, root, role.adapter)
    (root / ".locks").unlink(missing_ok=True)
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    console.print(f"{root}: {size / 1e6:.2f} MB  ({time.monotonic() - started:.0f} s in all)")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs everything; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    names = [role.adapter for role in ROLES]
    wanted = arguments.only.split(",") if arguments.only else names
    for name in wanted:
        if name not in names:
            parser.error(f"--only: no adapter {name!r}; there are {', '.join(names)}")
    if arguments.max_steps is not None and arguments.max_steps < 1:
        parser.error(f"--max-steps must be at least 1, got {arguments.max_steps}")
    roles = [role for role in ROLES if role.adapter in wanted]
    try:
        if not arguments.check:
            make(roles, arguments.base, arguments.store, arguments.max_steps)
        for name, found in find_ready(arguments.store, wanted, arguments.base).items():
            print(f"{name}@{store.version_of(found.content_hash)}: {found.method}, fits the base")
    except (ArtifactError, ChildError, NotReadyError, OSError) as error:
        print(f"demo.adapters: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
