"""`schema`: the configuration's JSON schema."""

import argparse
import json

from trainer.verbs.verb import Verb


def _run(options: argparse.Namespace) -> int:
    from trainer.run_file import run_schema

    print(json.dumps(run_schema(), indent=2))
    return 0


VERB = Verb("schema", "print the configuration's JSON schema", lambda parser: None, _run)
