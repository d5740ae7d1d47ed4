"""Adapters as people name them: a folder, or `name[@version|@alias]` in a store."""

from pathlib import Path

from trainer.errors import InputError
from understudy.artifact import CONFIG_FILE, ArtifactError, check_name
from understudy.store import read_entry


def find_adapter(reference: str, store: Path) -> Path:
    """The folder that `reference` means: an adapter's own, or its version's in `store`.

    A folder wins over a name. Raises InputError.
    """
    folder = Path(reference)
    if (folder / CONFIG_FILE).is_file():
        return folder
    # What can be no name was meant as a path.
    if folder.is_dir() or "/" in reference or reference.startswith("."):
        raise InputError(f"{reference}: no adapter's folder: it holds no {CONFIG_FILE}")
    return find_version(reference, store)


def find_version(reference: str, store: Path) -> Path:
    """The folder of `name`, `name@version` or `name@alias` in `store`. Raises InputError."""
    name, _, selector = reference.partition("@")
    try:
        check_name(name)
    except ArtifactError as error:
        raise InputError(str(error)) from error
    if not store.is_dir():
        raise InputError(f"--store {str(store)!r}: no such directory")
    version = read_entry(store, name).resolve(selector)
    if version is None:
        raise InputError(f"adapter {reference!r} is not in the store {str(store)!r}")
    return store / name / version
