"""Flags that several verbs share, and the types of their values."""

import argparse
from pathlib import Path

DEFAULT_OUT = Path("runs/eval")


def names(text: str) -> tuple[str, ...]:
    """`A,B`: at least one, none twice."""
    found = tuple(name.strip() for name in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"'{text}' has an empty name")
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"'{text}' names something twice")
    return found


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
    return int(text)


def counts(text: str) -> tuple[int, ...]:
    """`0,3`: whole numbers, each once."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of counts such as 0,3")
    return tuple(dict.fromkeys(int(part) for part in parts))


def share(text: str) -> float:
    """A number strictly between 0 and 1."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 < found < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number between 0 and 1")
    return found


def number(text: str) -> float:
    """A finite number of at least 0."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of at least 0")
    return found


def above_zero(text: str) -> float:
    """A finite number above 0."""
    found = number(text)
    if not found:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return found


def pairs(text: str) -> dict[str, str]:
    """`A=B,C=D`."""
    found = dict(part.split("=", 1) for part in names(text) if part.count("=") == 1)
    if len(found) < len(names(text)) or not all(k and v for k, v in found.items()):
        raise argparse.ArgumentTypeError(f"'{text}' is not a list such as A=B,C=D")
    return found


def numbers(text: str) -> dict[str, float]:
    """`A=1,B=0.5`."""
    return {name: number(value) for name, value in pairs(text).items()}


def add_asking(parser: argparse.ArgumentParser, shots: str, required: bool = True) -> None:
    """Flags of verbs that ask a server. `shots` is the help of --shots.

    Not `required`: without --server the verb reads back what was asked.
    """
    read_back = "" if required else "; left out: the run in --out is read back, nobody is asked"
    parser.add_argument(
        "--server",
        required=required,
        type=names,
        metavar="HOST:PORT,...",
        help="one server, or several that hold the same base and adapters and share the work"
        + read_back,
    )
    parser.add_argument(
        "--tasks",
        required=required,
        type=names,
        metavar="T,U",
        help="built-in names, or task files",
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="where the tasks' data files are"
    )
    parser.add_argument(
        "--perturb",
        type=names,
        default=(),
        metavar="P,Q",
        help="ask every task about changed inputs too: lowercase, uppercase, spaces, typos, "
        "contractions, synonyms, mild_mix, dialect, gender, or a word list's YAML file",
    )
    parser.add_argument("--shots", type=counts, metavar="K,L", help=shots)
    parser.add_argument("--limit", type=positive, metavar="N", help="first N samples of each task")
    parser.add_argument(
        "--concurrency",
        type=positive,
        metavar="N",
        help="most requests in flight at each server (default: found by its queue, at most four "
        "times its batch size)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="draws shots and resamples (default: 0)"
    )
    add_out(parser)


def add_out(parser: argparse.ArgumentParser) -> None:
    """--out and --json."""
    parser.add_argument(
        "--out",
        type=Path,
        default=DEFAULT_OUT,
        metavar="DIR",
        help=f"log, samples and reports; a run resumes from its log (default: {DEFAULT_OUT})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def add_aspects(parser: argparse.ArgumentParser) -> None:
    """--words and --toxicity, of verbs that look at texts."""
    parser.add_argument(
        "--words",
        type=Path,
        metavar="FILE",
        help="word lists of groups and targets, for bias in generated texts (default: a short one)",
    )
    parser.add_argument(
        "--toxicity",
        metavar="FILE@sha256:HASH",
        help="toxic words or phrases, one a line; given without its hash, the message says it",
    )


def add_rows(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """--adapters."""
    parser.add_argument(
        "--adapters",
        required=required,
        type=names,
        metavar="A,B",
        help="'base', adapters as NAME, NAME@VERSION or NAME@ALIAS, and rows of other servers as "
        "LABEL=HOST:PORT/ADAPTER",
    )
