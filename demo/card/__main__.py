"""Measures the numbers of the base's model card and writes them into its page.

Each section prints one JSON object, and is kept in --results: run again, the command takes what is
there for the same base and the same prepared text, and measures the rest. A block of the page whose
sections are not all there stays as it is.

Exit codes: 0 all that was asked for is on the page; 1 a section failed; 2 wrong arguments;
130 Ctrl-C.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo.card.blocks import names, replaced
from demo.card.held import CardError
from demo.card.sections import SECTIONS, Setting, timed
from demo.card.tables import BLOCKS
from demo.roles import BASE
from understudy import UnderstudyError
from understudy.processes import ChildError

GROUPS = {
    "references": ("bf16", "nf4", "5gram", "5gram_read", "stories260K"),
    "sizes": ("facts", "stages"),
}
# Sections that another base with the same tokenizer would not change.
WITHOUT_WEIGHTS = frozenset({"stages", "5gram", "5gram_read", "stories260K", "contamination"})
# Those that another mixture of the same text would not change either.
OF_TEXT_ALONE = frozenset({"5gram", "stories260K", "contamination"})
DATA_VARIABLE = "UNDERSTUDY_TEST_DATA"
EVERY_S = 5.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m demo.card",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python -m demo.card --work runs/nano --data test-data --corpus test-data/corpus\n"
        "  python -m demo.card --work runs/nano --recipe recipes/nano.yaml --only references\n"
        "  python -m demo.card --results runs/card --only samples --again\n"
        "  python -m demo.card --work runs/nano --only adapters --demo-report FILE",
    )
    parser.add_argument("--base", type=Path, default=BASE, help="the base (default: embedded)")
    parser.add_argument(
        "--work",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="what `trainer pretrain --work` made; once for each stage, in their order",
    )
    parser.add_argument(
        "--recipe",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="the recipe that was run in each --work, in their order",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=_default_data(),
        metavar="DIR",
        help=f"folder with data/ and models/stories260K/ (default: ${DATA_VARIABLE})",
    )
    parser.add_argument(
        "--corpus",
        type=Path,
        metavar="DIR",
        help="the corpus as published, to look for test items in it too",
    )
    parser.add_argument(
        "--demo-report", type=Path, metavar="FILE", help="report.json of the demo's evaluation"
    )
    parser.add_argument(
        "--only",
        type=_sections,
        default=tuple(SECTIONS),
        metavar="A,B",
        help=f"some of {', '.join(SECTIONS)}; also {', '.join(GROUPS)} (default: all)",
    )
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="of results and logs (default: WORK/card)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the page README.md (default: --base)"
    )
    return parser


def _default_data() -> Path | None:
    value = os.environ.get(DATA_VARIABLE)
    return Path(value) if value else None


def _sections(text: str) -> tuple[str, ...]:
    found: list[str] = []
    for name in text.split(","):
        if name not in SECTIONS and name not in GROUPS:
            raise argparse.ArgumentTypeError(
                f"{name!r} is none of {', '.join([*SECTIONS, *GROUPS])}"
            )
        found += GROUPS.get(name, (name,))
    return tuple(dict.fromkeys(found))


def _complaint(arguments: argparse.Namespace, page: Path) -> str | None:
    """What is wrong with the folders given, if anything."""
    if not (arguments.base / "config.json").is_file():
        return f"--base {arguments.base} is not a model directory: it holds no config.json"
    if not page.is_file():
        return f"--out: there is no {page}"
    for work in arguments.work:
        if not (work / "data.json").is_file():
            return f"--work {work} holds no data.json: name a folder of `trainer pretrain --work`"
    if arguments.results is None and not arguments.work:
        return "--results: needed without --work"
    return None


def _fingerprint(section: str, setting: Setting) -> str:
    """Of everything that a section's numbers depend on: weights, tokenizer, prepared text."""
    digest = hashlib.sha256()
    files = [setting.base / "tokenizer.json"]
    if section in OF_TEXT_ALONE:
        for work in setting.works:
            sources = json.loads((work / "data.json").read_text(encoding="utf-8"))
            digest.update(json.dumps([source | {"weight": None} for source in sources]).encode())
    else:
        files += [work / "data.json" for work in setting.works]
    if section not in WITHOUT_WEIGHTS:
        files.append(setting.base / "model.safetensors")
    if section in ("stages", "5gram_read"):
        files += [work / "metrics.jsonl" for work in setting.works]
    if section == "adapters" and setting.demo_report is not None:
        files.append(setting.demo_report)
    for path in files:
        digest.update(path.read_bytes() if path.is_file() else b"absent")
    return digest.hexdigest()


class _Progress:
    """Lines on stderr, at most one in EVERY_S seconds."""

    def __init__(self, section: str) -> None:
        self._section, self._last = section, 0.0

    def __call__(self, text: str) -> None:
        if time.monotonic() - self._last >= EVERY_S:
            self._last = time.monotonic()
            print(f"card: {self._section}: {text}", file=sys.stderr, flush=True)


def _measure(
    names: Sequence[str], setting: Setting, is_again: bool
) -> tuple[dict[str, Any], list[str]]:
    """The results at hand, and why those asked for are not among them."""
    results: dict[str, Any] = {}
    problems: list[str] = []
    for name in SECTIONS:
        path = setting.results / f"{name}.json"
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        fingerprint = _fingerprint(name, setting)
        is_kept = kept.get("fingerprint") == fingerprint
        if name in names and (is_again or not is_kept):
            print(f"card: {name} ...", file=sys.stderr, flush=True)
            try:
                kept = {"fingerprint": fingerprint, **timed(name, setting, _Progress(name))}
            except (CardError, ChildError, UnderstudyError, OSError, ValueError) as error:
                problems.append(f"{name}: {error if str(error) else type(error).__name__}")
                print(f"card: {problems[-1]}", file=sys.stderr, flush=True)
                continue
            path.write_text(json.dumps(kept, indent=1), encoding="utf-8")
            is_kept = True
        if is_kept:
            results[name] = kept["result"]
            if name in names:
                print(json.dumps(kept), flush=True)
    return results, problems


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and writes; returns the exit code."""
    arguments = _parser().parse_args(argv)
    page = (arguments.out or arguments.base) / "README.md"
    if complaint := _complaint(arguments, page):
        print(f"demo.card: {complaint}", file=sys.stderr)
        return 2
    results_folder: Path = arguments.results or arguments.work[0] / "card"
    results_folder.mkdir(parents=True, exist_ok=True)
    setting = Setting(
        base=arguments.base,
        works=tuple(arguments.work),
        recipes=tuple(arguments.recipe),
        data=arguments.data,
        corpus=arguments.corpus,
        demo_report=arguments.demo_report,
        results=results_folder,
    )
    try:
        results, problems = _measure(arguments.only, setting, arguments.again)
        text = page.read_text(encoding="utf-8")
        for name in names(text):
            if name in BLOCKS and set(BLOCKS[name].needs) <= results.keys():
                text = replaced(text, name, BLOCKS[name].render(results))
        page.write_text(text, encoding="utf-8")
    except CardError as error:
        print(f"demo.card: {page}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for problem in problems:
        print(f"demo.card: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
