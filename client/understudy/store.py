"""The adapter store on disk: `store/<name>/<version>/` and one-line alias files beside it.

A version directory is an artifact (see `understudy.artifact`), named by the first 16 hex digits
of its content hash, and never changes. `store/<name>/<alias>` is a file with a version in it,
replaced as a whole. Publishing moves the alias `latest`. Names that begin with a dot are not
adapters, versions or aliases: the lock file (`understudy.locks`), and what is being written or
removed, which `understudy.garbage` clears away if it was left behind.
"""

import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from understudy._files import copy_folder, make_folder, remove, sync_folder, write_file
from understudy.artifact import (
    NAME_PATTERN,
    TENSORS_FILE,
    ArtifactError,
    Manifest,
    check_name,
    read_safetensors_header,
    verify,
)
from understudy.locks import StoreLocks

VERSION_CHARS = 16
VERSION_PATTERN = re.compile(rf"[0-9a-f]{{{VERSION_CHARS}}}")
LATEST = "latest"

# Beginnings of temporary names: what is being written, and what is being removed.
PUBLISHING, ALIASING, REMOVING = ".publish-", ".alias-", ".remove-"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a store holds of one name, as read at one time."""

    versions: tuple[str, ...] = ()
    """Newest first, by the time of publishing."""
    aliases: tuple[tuple[str, str], ...] = ()
    """(alias, version), sorted. Aliases of versions that are gone are left out."""

    def resolve(self, selector: str = "") -> str | None:
        """The version that a version or alias means, or None.

        Empty means the alias `latest`, or the newest version where there is no such alias.
        """
        if selector in self.versions:
            return selector
        version = dict(self.aliases).get(selector or LATEST)
        if version is None and not selector and self.versions:
            return self.versions[0]
        return version


def version_of(content_hash: str) -> str:
    """The version name of a content hash."""
    return content_hash[:VERSION_CHARS]


def check_alias(alias: str) -> str:
    """`alias`, if it may be one. Raises ArtifactError."""
    check_name(alias, "alias")
    if VERSION_PATTERN.fullmatch(alias):
        raise ArtifactError(f"alias {alias!r} looks like a version")
    return alias


def temporary(beginning: str) -> str:
    """A name of its own for something that is being written or removed."""
    return beginning + secrets.token_hex(8)


def publish(artifact: Path, store: Path, name: str) -> str:
    """Copies an artifact into the store and points `latest` at it; returns the version.

    Writes a temporary directory, syncs it, verifies it, then renames: a crash at any point leaves
    the old state or the new one. Publishing the same content again only moves `latest`, and puts
    a sound copy in the place of a damaged one.
    Raises ArtifactError if the name is not allowed or the artifact does not verify.
    """
    check_name(name)
    # Before it is copied: what is no artifact may have any size.
    read_safetensors_header(artifact / TENSORS_FILE)
    folder = store / name
    make_folder(folder)
    with StoreLocks(store, required=False) as locks:
        staging = folder / temporary(PUBLISHING)
        damaged = folder / temporary(REMOVING)
        locks.take(f"{name}/{staging.name}")
        try:
            copy_folder(artifact, staging)
            version = version_of(verify(staging).content_hash)
            target = folder / version
            judged = _inode(target)
            sound = _is_sound(target)
            with locks.held(name):
                # What another publisher has put there meanwhile was verified.
                if not sound and judged is not None and _inode(target) == judged:
                    os.rename(target, damaged)
                if not target.is_dir():
                    os.rename(staging, target)
                # Also where it was there: whoever renamed it may not have come so far.
                sync_folder(folder)
                _point(folder, LATEST, version)
        finally:
            remove(staging)
            remove(damaged)
    return version


def set_alias(store: Path, name: str, alias: str, version: str) -> None:
    """Points `alias` at `version`, atomically. Raises ArtifactError if there is no such version."""
    folder = store / check_name(name)
    check_alias(alias)
    _check_version(folder, version)
    with StoreLocks(store, required=False) as locks, locks.held(name):
        # Again, now that nobody can remove it.
        _check_version(folder, version)
        _point(folder, alias, version)


def remove_alias(store: Path, name: str, alias: str) -> None:
    """Removes an alias, if it exists."""
    folder = store / check_name(name)
    check_alias(alias)
    if not (folder / alias).is_file():
        return
    with StoreLocks(store, required=False) as locks, locks.held(name):
        (folder / alias).unlink(missing_ok=True)
        sync_folder(folder)


def names(store: Path) -> list[str]:
    """Adapters in the store that have at least one version, sorted."""
    return sorted(name for name in folders(store) if read_entry(store, name).versions)


def folders(store: Path) -> list[str]:
    """Names that have a folder in the store, unsorted; some may hold no version."""
    return [
        entry.name
        for entry in _scan(store)
        if _is_name(entry.name) and entry.is_dir(follow_symlinks=False)
    ]


def read_entry(store: Path, name: str) -> Entry:
    """What the store holds of a name; nothing if it has no such name."""
    published, aliases = _read_folder(store / name)
    return Entry(
        tuple(sorted(published, key=lambda version: (-published[version], version))),
        tuple((alias, version) for alias, version in aliases if version in published),
    )


def broken_aliases(store: Path, name: str) -> list[str]:
    """Aliases that lead to no version, sorted."""
    published, aliases = _read_folder(store / name)
    return [alias for alias, version in aliases if version not in published]


def versions(store: Path, name: str) -> list[str]:
    """Versions of an adapter, newest first."""
    return list(read_entry(store, name).versions)


def aliases(store: Path, name: str) -> dict[str, str]:
    """Aliases of an adapter and the versions they point to."""
    return dict(read_entry(store, name).aliases)


def version_directory(store: Path, name: str, version: str) -> Path:
    """Where a version's artifact lies. Raises ArtifactError if it is not there."""
    check_name(name)
    _check_version(store / name, version)
    return store / name / version


def verify_version(store: Path, name: str, version: str) -> Manifest:
    """Re-hashes a stored version. Raises ArtifactError naming what differs."""
    manifest = verify(version_directory(store, name, version))
    if version_of(manifest.content_hash) != version:
        raise ArtifactError(f"{name}/{version}: content hash begins otherwise")
    return manifest


def _check_version(folder: Path, version: str) -> None:
    path = folder / version
    sound = VERSION_PATTERN.fullmatch(version) and not folder.is_symlink()
    if not sound or path.is_symlink() or not path.is_dir():
        raise ArtifactError(f"adapter {folder.name!r} has no version {version[:80]!r}")


def _is_name(name: str) -> bool:
    return NAME_PATTERN.fullmatch(name) is not None


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What a folder holds; nothing if it is a link or was removed meanwhile."""
    if folder.is_symlink():
        return
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return


def _read_folder(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Version -> time of publishing in ns; (alias, what its file says), sorted."""
    published: dict[str, int] = {}
    files: list[str] = []
    for entry in _scan(folder):
        try:
            if VERSION_PATTERN.fullmatch(entry.name):
                if entry.is_dir(follow_symlinks=False):
                    published[entry.name] = entry.stat(follow_symlinks=False).st_mtime_ns
            elif _is_name(entry.name) and entry.is_file(follow_symlinks=False):
                files.append(entry.name)
        except FileNotFoundError:
            # Removed since it was listed.
            continue
    texts = ((alias, _read_alias(folder / alias)) for alias in sorted(files))
    return published, [(alias, text) for alias, text in texts if text is not None]


def _read_alias(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(VERSION_CHARS + 1).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None


def _is_sound(directory: Path) -> bool:
    try:
        verify(directory)
    except (ArtifactError, OSError):
        # Also if it is removed meanwhile.
        return False
    return True


def _inode(directory: Path) -> int | None:
    try:
        return directory.stat().st_ino
    except FileNotFoundError:
        return None


def _point(folder: Path, alias: str, version: str) -> None:
    """Writes an alias. The version's own name is synced, and the adapter's name locked."""
    path = folder / temporary(ALIASING)
    try:
        write_file(path, [version.encode() + b"\n"])
        os.rename(path, folder / alias)
    except BaseException:
        remove(path)
        raise
    sync_folder(folder)
