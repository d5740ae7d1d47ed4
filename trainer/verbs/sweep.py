"""`sweep`: search a configuration's space."""

import argparse
import sys

from trainer.errors import ConfigError, InputError, InterruptedRunError
from trainer.verbs.train import add_config, add_output
from trainer.verbs.verb import Verb
from trainer.writing import json_line


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train with values drawn from the ranges and lists under `sweep`, and keep the "
        "configuration with the lowest validation loss, or the best loop.metric. Needs the extra "
        "`sweep`. Interrupted, the same command goes on."
    )
    add_config(parser)
    parser.add_argument(
        "--trials", type=int, default=20, metavar="N", help="finished trials to come to (20)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the values drawn (default: 0)")
    parser.add_argument("--no-prune", action="store_true", help="train every trial to its end")
    parser.add_argument("--overwrite", action="store_true", help="forget earlier trials")
    add_output(parser)


def _run(options: argparse.Namespace) -> int:
    if options.trials < 1:
        raise InputError(f"--trials {options.trials} is not a number from 1")
    try:
        from trainer.sweep import SweepOptions, load_sweep, search
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise ConfigError(
            "sweep needs optuna; install it with `pip install 'understudy-suite[sweep]'`"
        ) from error

    from trainer.distributed import check_single

    check_single("sweep")
    sweep = load_sweep(options.config, options.overrides)

    def say(text: str) -> None:
        if not options.quiet:
            print(text, file=sys.stderr, flush=True)

    settings = SweepOptions(
        options.trials, not options.no_prune, options.seed, options.overwrite, options.quiet
    )
    try:
        result = search(sweep, settings, say)
    except InterruptedRunError as error:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return error.exit_code
    if options.json:
        print(json_line(result))
        return 0

    from rich.console import Console
    from rich.table import Table

    keys = list(sweep.space)
    table = Table("trial", "state", result["metric"], "step", *keys, highlight=False)
    is_loss = result["metric"] == "loss"

    def order(row: dict[str, object]) -> tuple[bool, float]:
        score = row["score"]
        assert score is None or isinstance(score, float)
        return row["state"] != "complete", 0.0 if score is None else score * (1 if is_loss else -1)

    for row in sorted(result["trials"], key=order):
        score = "" if row["score"] is None else f"{row['score']:.4f}"
        step = "" if row["step"] is None else str(row["step"])
        values = [_short(row["values"].get(key)) for key in keys]
        table.add_row(str(row["number"]), row["state"], score, step, *values)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print(f"{sweep.directory}: best.yaml, sweep.json, sweep.png")
    return 0


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


VERB = Verb("sweep", "search a configuration's space", _add_arguments, _run)
