"""`train`: train, export and publish one adapter."""

import argparse
import json
from pathlib import Path

from trainer.verbs.verb import Verb, add_json


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds the configuration file and its overrides."""
    parser.add_argument("config", type=Path, metavar="FILE.yaml", help="see docs/training.md")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one key, such as optimiser.epochs=3; may be repeated",
    )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--resume", action="store_true", help="continue an interrupted run")
    mode.add_argument("--overwrite", action="store_true", help="replace an earlier run")
    add_json(parser, "the summary")
    parser.add_argument("--quiet", action="store_true", help="print no progress")


def _run(options: argparse.Namespace) -> int:
    # Wrong configurations are answered before the libraries load.
    from trainer.config_file import load_config

    config = load_config(options.config, options.overrides)

    from trainer.train import TrainOptions, train

    summary = train(
        config,
        TrainOptions(resume=options.resume, overwrite=options.overwrite, quiet=options.quiet),
    )
    if options.json:
        print(json.dumps(summary))
        return 0
    where = summary["artifact"]
    if summary["version"] is not None:
        where = f"{config.output.store}/{summary['name']}/{summary['version']}"
    before, after = summary["validation_loss_before"], summary["validation_loss"]
    losses = "" if after is None else f"validation loss {before:.4f} -> {after:.4f}, "
    print(
        f"{summary['name']}: {summary['steps']} steps in {summary['training_s']:.0f} s, {losses}"
        f"{summary['tokens_per_s']:,.0f} tokens/s; adapter in {where}"
    )
    return 0


VERB = Verb("train", "train, export and publish one adapter", _add_arguments, _run)
