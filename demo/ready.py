"""The ready-made adapters: what lies in the store that comes with the demo, and whether it fits."""

from collections.abc import Iterable
from pathlib import Path

from understudy import store
from understudy.artifact import ArtifactError, Manifest, base_fingerprint

REMEDY = "make them anew with `python -m demo.adapters`, or train all now with --retrain"


class NotReadyError(Exception):
    """A ready-made adapter is missing, damaged, or of another base; the message has the remedy."""


def find_ready(root: Path, names: Iterable[str], base: Path) -> dict[str, Manifest]:
    """The current version of each name in the store `root`, verified, by name.

    Raises NotReadyError if one is missing, damaged or was trained on another base than `base`.
    """
    fingerprint = base_fingerprint(base)
    found = {}
    for name in names:
        version = store.read_entry(root, name).resolve()
        if version is None:
            raise NotReadyError(f"{root} holds no ready-made {name}; {REMEDY}")
        try:
            manifest = store.verify_version(root, name, version)
        except ArtifactError as error:
            raise NotReadyError(
                f"the ready-made {name}@{version} is damaged: {error}; {REMEDY}"
            ) from error
        if manifest.base_fingerprint != fingerprint:
            raise NotReadyError(
                f"the ready-made {name}@{version} was trained on another base (fingerprint "
                f"{manifest.base_fingerprint[:12]}) than {base} ({fingerprint[:12]}); {REMEDY}"
            )
        found[name] = manifest
    return found


def publish_ready(root: Path, names: Iterable[str], base: Path, target: Path) -> dict[str, str]:
    """Publishes the ready-made adapters to the store `target`; returns their versions by name.

    Raises NotReadyError as `find_ready`, before anything is published.
    """
    return {
        name: store.publish(
            store.version_directory(root, name, store.version_of(manifest.content_hash)),
            target,
            name,
        )
        for name, manifest in find_ready(root, names, base).items()
    }
