"""`resume`: continue an interrupted run from what its folder says."""

import argparse
import contextlib
from pathlib import Path

from trainer.verbs.train import add_output, check_first, train_and_report
from trainer.verbs.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Continue the run in a folder, by the configuration saved there, overrides included. On "
        "CPU it ends with the bits of a run that was never interrupted. Refused if the "
        "configuration, the data or the base is another by now."
    )
    parser.add_argument("directory", type=Path, metavar="RUN_DIR", help="the run's output.dir")
    add_output(parser)


def _run(options: argparse.Namespace) -> int:
    from trainer.folder import remembered

    run, working_directory = remembered(options.directory)
    # Relative paths start where they did.
    with contextlib.chdir(working_directory):
        check_first(run, resume=True, overwrite=False)

        from trainer.train import TrainOptions

        return train_and_report(
            run, TrainOptions(resume=True, quiet=options.quiet), as_json=options.json
        )


VERB = Verb("resume", "continue an interrupted run", _add_arguments, _run)
