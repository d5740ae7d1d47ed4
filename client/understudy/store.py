"""The adapter store on disk: `store/<name>/<version>/` and one-line alias files beside it.

A version directory is an artifact (see `understudy.artifact`), named by the first 16 hex digits
of its content hash, and never changes. `store/<name>/<alias>` is a file with a version in it.
Publishing moves the alias `latest`.
"""

import os
import re
import shutil
import tempfile
from pathlib import Path

from understudy.artifact import ArtifactError, Manifest, check_name, verify

VERSION_CHARS = 16
VERSION_PATTERN = re.compile(rf"[0-9a-f]{{{VERSION_CHARS}}}")
LATEST = "latest"


def version_of(content_hash: str) -> str:
    """The version name of a content hash."""
    return content_hash[:VERSION_CHARS]


def publish(artifact: Path, store: Path, name: str) -> str:
    """Copies an artifact into the store and points `latest` at it; returns the version.

    Writes a temporary directory, syncs it, verifies it, then renames: a crash at any point leaves
    the old state or the new one. Publishing the same content again only moves `latest`.
    Raises ArtifactError if the name is not allowed or the artifact does not verify.
    """
    check_name(name)
    folder = store / name
    folder.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".publish-", dir=folder))
    try:
        shutil.copytree(artifact, staging, dirs_exist_ok=True)
        manifest = verify(staging)
        version = version_of(manifest.content_hash)
        staging.chmod(0o755)
        # Its time is that of publishing, not the source's, which copying keeps.
        os.utime(staging)
        _sync_tree(staging)
        if not (folder / version).exists():
            staging.rename(folder / version)
            _sync_directory(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    set_alias(store, name, LATEST, version)
    return version


def set_alias(store: Path, name: str, alias: str, version: str) -> None:
    """Points `alias` at `version`, atomically. Raises ArtifactError if there is no such version."""
    check_name(name)
    check_name(alias, "alias")
    if VERSION_PATTERN.fullmatch(alias):
        raise ArtifactError(f"alias {alias!r} looks like a version")
    folder = store / name
    if not VERSION_PATTERN.fullmatch(version) or not (folder / version).is_dir():
        raise ArtifactError(f"adapter {name!r} has no version {version[:80]!r}")
    handle, temporary = tempfile.mkstemp(prefix=".alias-", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(version + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / alias)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_directory(folder)


def remove_alias(store: Path, name: str, alias: str) -> None:
    """Removes an alias, if it exists."""
    check_name(name)
    check_name(alias, "alias")
    path = store / name / alias
    if path.is_file():
        path.unlink()


def names(store: Path) -> list[str]:
    """Adapters in the store that have at least one version, sorted."""
    if not store.is_dir():
        return []
    return sorted(folder.name for folder in _entries(store) if versions(store, folder.name))


def versions(store: Path, name: str) -> list[str]:
    """Versions of an adapter, sorted by name."""
    folder = store / name
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(
        path.name
        for path in _entries(folder)
        if VERSION_PATTERN.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    )


def aliases(store: Path, name: str) -> dict[str, str]:
    """Aliases of an adapter and the versions they point to."""
    found: dict[str, str] = {}
    folder = store / name
    known = set(versions(store, name))
    for path in _entries(folder) if known else ():
        if path.name.startswith(".") or path.is_symlink() or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            # Removed since it was listed.
            continue
        version = text[: VERSION_CHARS + 1].strip()
        if version in known:
            found[path.name] = version
    return found


def version_directory(store: Path, name: str, version: str) -> Path:
    """Where a version's artifact lies. Raises ArtifactError if it is not there."""
    check_name(name)
    if version not in versions(store, name):
        raise ArtifactError(f"adapter {name!r} has no version {version[:80]!r}")
    return store / name / version


def verify_version(store: Path, name: str, version: str) -> Manifest:
    """Re-hashes a stored version. Raises ArtifactError naming what differs."""
    manifest = verify(version_directory(store, name, version))
    if version_of(manifest.content_hash) != version:
        raise ArtifactError(f"{name}/{version}: content hash begins otherwise")
    return manifest


def _entries(folder: Path) -> list[Path]:
    """What a folder holds; nothing if it was removed meanwhile."""
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def _sync_tree(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for path in [*(p for p in directory.rglob("*") if p.is_dir()), directory]:
        _sync_directory(path)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
