"""`bridge`: lm-evaluation-harness on the base or an adapter of a server."""

import argparse
import importlib
import sys

from evalsuite import flags
from evalsuite.errors import InputError
from understudy.artifact import BASE_NAME

MODEL = "understudy"
_MODULE = "evalsuite.bridge.model"


def add(parser: argparse.ArgumentParser) -> None:
    """Flags of `bridge`."""
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument(
        "--adapter",
        default=BASE_NAME,
        metavar="NAME",
        help="NAME, NAME@VERSION or NAME@ALIAS, pinned for the run (default: base)",
    )
    parser.add_argument(
        "--template",
        action="store_true",
        help="put every prompt into the adapter's own template, as its input",
    )
    parser.add_argument(
        "--concurrency",
        type=flags.positive,
        metavar="N",
        help="requests under way at a time (default: twice the server's batch size)",
    )
    parser.add_argument(
        "lm_eval",
        nargs="*",
        metavar="-- LM_EVAL_FLAGS",
        help="what `lm_eval run` takes, such as --tasks arc_easy --limit 100",
    )
    parser.set_defaults(call=_bridge)


def register() -> None:
    """Makes the model `understudy` known to lm_eval. Raises InputError without lm_eval."""
    try:
        # By name, since what it imports is no dependency.
        importlib.import_module(_MODULE)
    except ImportError as error:
        if (error.name or "").partition(".")[0].startswith("evalsuite"):
            raise
        raise InputError(
            f"bridge: cannot import {error.name or 'lm_eval'}: pip install "
            "'understudy-suite[lm-eval]'"
        ) from error


def _bridge(arguments: argparse.Namespace) -> int:
    given = list(arguments.lm_eval)
    for word in given:
        if word.partition("=")[0] in ("--model", "-M", "--model_args", "-a"):
            raise InputError(f"bridge: {word} is set here; use --server, --adapter and --template")
    register()
    model = {"server": arguments.server, "adapter": arguments.adapter}
    if arguments.template:
        model["template"] = "True"
    if arguments.concurrency is not None:
        model["concurrency"] = str(arguments.concurrency)
    joined = ",".join(f"{name}={value}" for name, value in model.items())
    # Its command line is the one way in that has all of its features; it reads sys.argv.
    before = sys.argv
    sys.argv = ["lm_eval", "run", "--model", MODEL, "--model_args", joined, *given]
    try:
        importlib.import_module("lm_eval.__main__").cli_evaluate()
    finally:
        sys.argv = before
    return 0
