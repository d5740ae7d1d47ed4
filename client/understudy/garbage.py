"""Garbage collection of a store: versions that nobody needs, and what crashes left behind.

Safe beside servers, publishers and other collectors: each decision is made under the name's lock
(`understudy.locks`), and a version is taken away only under its own, which servers share.
"""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from understudy import store as layout
from understudy._files import remove, sync_folder
from understudy.artifact import check_name
from understudy.locks import StoreLocks

DEFAULT_KEEP = 3
DEFAULT_MIN_AGE_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one version, or of something left behind by a crash."""

    name: str
    version: str
    """Or the temporary name of what was left behind."""
    size_bytes: int
    age_s: float
    removed: bool
    """With `dry_run`: it would be."""
    reason: str


@dataclass(frozen=True, slots=True)
class Policy:
    """What stays, beside versions with an alias and versions that a server has in memory."""

    keep: int = DEFAULT_KEEP
    """Versions of each name, newest first."""
    min_age_s: float = DEFAULT_MIN_AGE_S
    """Seconds since publishing: younger versions stay."""


def collect(
    store: Path, policy: Policy | None = None, *, name: str = "", dry_run: bool = False
) -> list[Verdict]:
    """Removes what `policy` lets go, of one name or of all; a verdict on each version.

    Raises ArtifactError: LocksUnsupportedError where the store cannot be locked.
    """
    policy = policy or Policy()
    if name:
        check_name(name)
    found: list[Verdict] = []
    if not store.is_dir():
        return found
    with StoreLocks(store) as locks:
        for each in [name] if name else sorted(layout.folders(store)):
            with locks.held(each):
                verdicts, doomed = _judge(store, each, policy, locks, dry_run)
            found += verdicts
            for path in doomed:
                remove(path)
    return found


def _judge(
    store: Path, name: str, policy: Policy, locks: StoreLocks, dry_run: bool
) -> tuple[list[Verdict], list[Path]]:
    """Verdicts on one name, and the paths that nobody can see any more. The name is locked."""
    folder = store / name
    entry = layout.read_entry(store, name)
    now = time.time()
    found: list[Verdict] = []
    doomed: list[Path] = []
    for rank, version in enumerate(entry.versions):
        path = folder / version
        # The clock of a file server may be ahead.
        age_s = max(0.0, now - path.stat().st_mtime)
        size = _size(path)
        reason = _keeps(entry, rank, version, age_s, policy)
        if not reason and not locks.take(f"{name}/{version}"):
            reason = "in a server's memory"
        if reason:
            found.append(Verdict(name, version, size, age_s, False, reason))
            continue
        if not dry_run:
            doomed.append(folder / layout.temporary(layout.REMOVING))
            os.rename(path, doomed[-1])
        locks.release(f"{name}/{version}")
        found.append(Verdict(name, version, size, age_s, True, "not needed"))
    for path in _left_behind(folder, locks):
        if path not in doomed:
            # Another collector may be removing it.
            with contextlib.suppress(FileNotFoundError):
                age_s = max(0.0, now - path.lstat().st_mtime)
                found.append(Verdict(name, path.name, _size(path), age_s, True, "left by a crash"))
                doomed.append(path)
    if dry_run:
        return found, []
    if doomed:
        sync_folder(folder)
    return found, doomed


def _keeps(entry: layout.Entry, rank: int, version: str, age_s: float, policy: Policy) -> str:
    """Why a version stays; empty if only a server could need it."""
    names = [alias for alias, target in entry.aliases if target == version]
    if names:
        return "alias " + ", ".join(names)
    if rank < policy.keep:
        return f"one of the newest {policy.keep}"
    if age_s < policy.min_age_s:
        return f"younger than {policy.min_age_s:.0f} s"
    return ""


def _left_behind(folder: Path, locks: StoreLocks) -> list[Path]:
    """Temporary names whose writer is gone. The name is locked, so nobody moves an alias now."""
    found = []
    for path in sorted(folder.glob(".*")):
        if path.name.startswith(layout.PUBLISHING):
            key = f"{folder.name}/{path.name}"
            if not locks.take(key):
                continue
            locks.release(key)
        elif not path.name.startswith((layout.ALIASING, layout.REMOVING)):
            continue
        found.append(path)
    return found


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; what vanishes meanwhile counts nothing."""
    total = 0
    with contextlib.suppress(FileNotFoundError):
        for each in [path, *path.rglob("*")]:
            if each.is_file() and not each.is_symlink():
                total += each.stat().st_size
    return total
