"""Measures what each ready-made adapter gained on its task and forgot elsewhere.

Starts a server on the embedded base and the ready-made adapters, asks everybody about every task
and about general text (the eval suite's `matrix`), and writes the table into the README, between
its two marks.

Exit codes: 0 done; 1 a part failed; 2 wrong arguments; 130 Ctrl-C.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from demo.ready import NotReadyError, find_ready
from demo.roles import BASE, HERE, PROSE, QUANTIZATION, ROLES, STORE, TASKS
from demo.training import make_data
from understudy import processes, store
from understudy.artifact import ArtifactError, Manifest
from understudy.processes import ChildError, python

README = HERE.parent / "README.md"
BEGIN = "<!-- written by `python -m demo.matrix`; do not edit -->"
END = "<!-- end of what `python -m demo.matrix` writes -->"
BLOCK = re.compile(rf"{re.escape(BEGIN)}\n(.*?){re.escape(END)}", re.DOTALL)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m demo.matrix",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python -m demo.matrix\n"
        "  python -m demo.matrix --num-test 20 --page my-page.md",
    )
    parser.add_argument("--num-test", type=int, default=200, metavar="N", help="items a task (200)")
    parser.add_argument("--page", type=Path, default=README, help="with the marks (the README)")
    return parser


def measure(directory: Path, num_test: int) -> Mapping[str, Any]:
    """The content of matrix.json, for the ready-made adapters; works in `directory`.

    Raises ChildError if a part fails.
    """
    (directory / "data").mkdir()
    make_data(directory / "data", TASKS, num_test)
    flags = ["--base", str(BASE), "--quantization", QUANTIZATION, "--name", "understudy-nano"]
    names = ",".join(["base", *(role.adapter for role in ROLES)])
    ask = ["--adapters", names, "--tasks", ",".join(TASKS), "--text", str(PROSE)]
    ask += ["--own", ",".join(f"{role.adapter}={role.task}" for role in ROLES)]
    ask += ["--data-dir", str(directory / "data"), "--out", str(directory / "out")]
    with processes.server([*flags, "--store", str(STORE)], directory) as server:
        command = python("evalsuite", "matrix", "--server", server.address, *ask)
        processes.run(command, "the matrix")
    found: dict[str, Any] = json.loads((directory / "out" / "matrix.json").read_text())
    return found


def table(matrix: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    """Markdown of matrix.json's content: a column per adapter, a row per task.

    `versions` by adapter. Each adapter's own task is bold; * marks what is shown to differ from
    the base.
    """
    names, own = list(matrix["rows"]), {n: row["own_task"] for n, row in matrix["rows"].items()}
    lines = [_row(["", "base", *names]), _row(["---", *["---:"] * (len(names) + 1)])]
    lines.append(_row(["version", "", *(f"`{versions[name][:6]}`" for name in names)]))
    for task, facts in matrix["tasks"].items():
        cells = [f"{task}, {facts['metric']}", _number(facts["base"])]
        for name in names:
            cell = matrix["rows"][name]["cells"][task]
            star = "\\*" if cell["finding"] in {"gain", "loss"} else ""
            shown = _number(cell["gain"], signed=True)
            cells.append(f"**{shown}**{star}" if own[name] == task else f"{shown}{star}")
        lines.append(_row(cells))
    lost = (_number(matrix["rows"][name]["mean_loss"]) for name in names)
    lines.append(_row(["mean loss elsewhere, points", "", *lost]))
    settings, counts = matrix["settings"], [t["num_samples"] for t in matrix["tasks"].values()]
    lines += [
        "",
        f"Change from the base's score, more being better; own tasks in bold; \\* p ≤ "
        f"{settings['tests']['alpha']:g}, corrected over {settings['num_tests']} cells "
        f"({settings['correction'].capitalize()}). {min(counts)} to {max(counts)} samples a row; "
        f"`text` is {PROSE.relative_to(HERE.parent)}.",
    ]
    return "\n".join(lines) + "\n"


def versions_of(found: Mapping[str, Manifest]) -> dict[str, str]:
    """The versions of what `find_ready` found."""
    return {name: store.version_of(manifest.content_hash) for name, manifest in found.items()}


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, signed: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value:{'+' if signed else ''}.{1 if abs(value) >= 10 else 2}f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and writes; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.num_test < 1:
        parser.error(f"--num-test must be at least 1, got {arguments.num_test}")
    try:
        text = arguments.page.read_text(encoding="utf-8")
        if len(BLOCK.findall(text)) != 1:
            parser.error(f"--page {arguments.page} must hold the marks once: {BEGIN} and {END}")
        found = find_ready(STORE, [role.adapter for role in ROLES], BASE)
        with tempfile.TemporaryDirectory(prefix="understudy-matrix-") as folder:
            made = table(measure(Path(folder), arguments.num_test), versions_of(found))
        written = BLOCK.sub(lambda _: f"{BEGIN}\n{made}{END}", text)
        arguments.page.write_text(written, encoding="utf-8")
    except (ArtifactError, ChildError, NotReadyError, OSError) as error:
        print(f"demo.matrix: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"wrote {arguments.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
