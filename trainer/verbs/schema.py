"""`schema`: the JSON schema of a configuration file."""

import argparse

from trainer.verbs.verb import Verb
from trainer.writing import pretty


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--for",
        choices=("train", "sweep", "compare"),
        default="train",
        dest="kind",
        help="the verb that reads the file (default: train)",
    )


def _run(options: argparse.Namespace) -> int:
    if options.kind == "train":
        from trainer.run_file import run_schema

        schema = run_schema()
    else:
        from trainer.search_schemas import compare_schema, sweep_schema

        schema = sweep_schema() if options.kind == "sweep" else compare_schema()
    print(pretty(schema), end="")
    return 0


VERB = Verb("schema", "print a configuration file's JSON schema", _add_arguments, _run)
