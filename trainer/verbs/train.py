"""`train`: train, export and publish one adapter, or several over one base."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.verbs.verb import Verb, add_json
from trainer.writing import json_line

if TYPE_CHECKING:
    from trainer.run_file import Run
    from trainer.train import TrainOptions


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
    add_output(parser)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Adds what is printed, and what is not."""
    add_json(parser, "the summary")
    parser.add_argument("--quiet", action="store_true", help="print no progress")


def _run(options: argparse.Namespace) -> int:
    from trainer.run_file import load_run

    run = load_run(options.config, options.overrides)
    check_first(run, resume=options.resume, overwrite=options.overwrite)

    from trainer.train import TrainOptions

    return train_and_report(
        run,
        TrainOptions(resume=options.resume, overwrite=options.overwrite, quiet=options.quiet),
        as_json=options.json,
    )


def check_first(run: "Run", *, resume: bool, overwrite: bool) -> None:
    """Looks at folders and files before the libraries load, which takes seconds. Raises InputError.

    Of several processes only the main one has the run's folders, and tells the others later.
    """
    from trainer.distributed import num_launched
    from trainer.inputs import check_inputs

    if num_launched() == 1:
        check_inputs(run, run.directory, resume=resume, overwrite=overwrite)


def train_and_report(run: "Run", options: "TrainOptions", *, as_json: bool) -> int:
    """Trains `run` and prints its summary; 1 if one of several jobs failed. Raises TrainerError."""
    from trainer import files
    from trainer.distributed import is_main
    from trainer.report import print_summary
    from trainer.train import train_all

    had_ended = options.resume and _has_ended(run.directory / files.SUMMARY)
    summary = train_all(run, options)
    if not is_main():
        return 0
    if had_ended:
        print(f"{run.directory}: had ended already; nothing was trained", file=sys.stderr)
    several = len(run.configs) > 1
    if as_json:
        print(json_line(summary if several else summary["jobs"][0]))
    else:
        print_summary(run, summary)
    return 1 if any("error" in job for job in summary["jobs"]) else 0


def _has_ended(summary: Path) -> bool:
    """Whether a run's summary is there, and none of its jobs failed."""
    try:
        return not any("error" in job for job in json.loads(summary.read_bytes())["jobs"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


VERB = Verb("train", "train, export and publish adapters", _add_arguments, _run)
