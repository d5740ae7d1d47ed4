"""`verify`: re-hash adapters against their manifests."""

import argparse
import json
import sys
from pathlib import Path

from trainer.errors import InputError
from trainer.verbs.verb import Verb, add_json, add_store
from trainer.writing import json_line


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Re-hash an adapter, or every version in a store, against its manifest. Exit code 2 if one "
        "is damaged."
    )
    parser.add_argument(
        "adapter",
        nargs="?",
        metavar="ADAPTER",
        help="its folder, or name, name@version or name@alias in --store, or a store's folder "
        "(default: all of --store)",
    )
    add_store(parser)
    add_json(parser, "the manifest, or what is intact and what is damaged")


def _run(options: argparse.Namespace) -> int:
    from trainer.reference import find_adapter
    from understudy.artifact import ArtifactError, verify
    from understudy.store import names

    given = options.store if options.adapter is None else Path(options.adapter)
    if names(given):
        return _verify_store(given, as_json=options.json)
    if options.adapter is None:
        raise InputError(f"--store {str(given)!r} holds no adapters")
    folder = given if given.is_dir() else find_adapter(options.adapter, options.store)
    try:
        manifest = verify(folder)
    except (ArtifactError, OSError) as error:
        raise InputError(f"{folder}: {error}") from error
    if options.json:
        print(json_line(json.loads(manifest.to_json())))
    else:
        print(f"{manifest.name}: {manifest.method}, content hash {manifest.content_hash}: intact")
    return 0


def _verify_store(store: Path, *, as_json: bool) -> int:
    """Verifies every version, damaged ones to stderr; 2 if there are any."""
    from understudy.artifact import ArtifactError
    from understudy.store import names, verify_version, versions

    intact: list[str] = []
    damaged: dict[str, str] = {}
    for name in names(store):
        for version in versions(store, name):
            reference = f"{name}@{version}"
            try:
                verify_version(store, name, version)
            except (ArtifactError, OSError) as error:
                damaged[reference] = str(error)
            else:
                intact.append(reference)
    if as_json:
        print(json_line({"intact": intact, "damaged": damaged}))
    else:
        print(f"{store}: {len(intact)} of {len(intact) + len(damaged)} versions intact")
    for reference, fault in damaged.items():
        print(f"error: {reference}: {fault}", file=sys.stderr)
    return 2 if damaged else 0


VERB = Verb("verify", "re-hash adapters against their manifests", _add_arguments, _run)
