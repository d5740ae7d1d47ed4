"""What the command line asks of a verb."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ADAPTER_HELP = "its folder, or name, name@version or name@alias in --store"


@dataclass(frozen=True)
class Verb:
    """One command of `python -m trainer`."""

    name: str
    help: str
    """One line for the list of commands."""
    add_arguments: Callable[[argparse.ArgumentParser], None]
    """Adds its arguments, and may set description and epilog."""
    run: Callable[[argparse.Namespace], int]
    """Does the work and returns the exit code. Raises TrainerError."""


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds `--json`."""
    parser.add_argument("--json", action="store_true", help=f"print {what} as one JSON line")


def add_store(parser: argparse.ArgumentParser) -> None:
    """Adds `--store`, where adapters are looked up by name."""
    parser.add_argument(
        "--store",
        type=Path,
        default=Path("store"),
        metavar="DIR",
        help="where adapters are looked up by name (default: store)",
    )
