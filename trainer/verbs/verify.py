"""`verify`: re-hash an adapter against its manifest."""

import argparse
import json
from pathlib import Path

from trainer.errors import InputError
from trainer.verbs.verb import Verb, add_json


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="the adapter's folder")
    add_json(parser, "the manifest")


def _run(options: argparse.Namespace) -> int:
    from understudy.artifact import ArtifactError, verify

    try:
        manifest = verify(options.directory)
    except (ArtifactError, OSError) as error:
        raise InputError(f"{options.directory}: {error}") from error
    if options.json:
        print(json.dumps(json.loads(manifest.to_json())))
    else:
        print(f"{manifest.name}: {manifest.method}, content hash {manifest.content_hash}: intact")
    return 0


VERB = Verb("verify", "re-hash an adapter against its manifest", _add_arguments, _run)
