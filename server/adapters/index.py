"""What the store holds, kept in memory: read once, and again where a folder's time has changed.

A few hundred bytes for each version that nobody uses. Methods read the disk where they must.
"""

import logging
import os
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from understudy import store as layout
from understudy.artifact import TENSORS_FILE, ArtifactError, read_facts

# A folder that changed this short a time before it was read may change again without its time
# telling: clocks of file systems tick this coarsely at worst.
_COARSE_NS = 2_000_000_000
_UNSURE = -1
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoredFacts:
    """What the manifest says of a version, as far as lists show it. Unverified."""

    method: str
    rank: int
    num_virtual_tokens: int
    base_fingerprint: str
    quantization: str
    size_bytes: int
    """Of the tensor file."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A folder's content and the time of its last change; _UNSURE: to be read again."""

    time_ns: int
    entry: layout.Entry


class StoreIndex:
    """Answers from memory what did not change. Thread-safe: what it keeps is only replaced."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen: dict[str, _Seen] = {}
        self._facts: dict[tuple[str, str], StoredFacts] = {}
        self._folders: tuple[int, tuple[str, ...]] = (_UNSURE, ())

    def names(self) -> list[str]:
        """Adapters with at least one version, sorted.

        One look at the disk, and one for each folder that held no version. A name whose versions
        have all been removed stays until `entry` is asked for it.
        """
        time_ns, folders = self._folders
        changed_ns = _changed_ns(self._root)
        if time_ns == _UNSURE or time_ns != changed_ns:
            folders = tuple(sorted(map(sys.intern, layout.folders(self._root))))
            self._folders = (_sure(changed_ns), folders)
            for name in self._seen.keys() - set(folders):
                self._forget(name)
        found = []
        for name in folders:
            seen = self._seen.get(name)
            entry = seen.entry if seen is not None and seen.entry.versions else self.entry(name)
            if entry.versions:
                found.append(name)
        return found

    def entry(self, name: str) -> layout.Entry:
        """Versions and aliases of a name. One look at the disk where nothing changed."""
        changed_ns = _changed_ns(self._root / name)
        if changed_ns is None:
            self._forget(name)
            return layout.Entry()
        seen = self._seen.get(name)
        if seen is not None and seen.time_ns == changed_ns:
            return seen.entry
        # The time is older than the content: a change meanwhile shows at the next look.
        sure = _sure(changed_ns)
        try:
            entry = layout.read_entry(self._root, name)
        except PermissionError as error:
            # One folder must not spoil the others.
            _LOG.warning("%s cannot be read: %s", name, error.strerror)
            entry = layout.Entry()
        if seen is not None:
            for version in set(seen.entry.versions) - set(entry.versions):
                self._facts.pop((name, version), None)
        self._seen[sys.intern(name)] = _Seen(sure, entry)
        return entry

    def facts(self, name: str, version: str) -> StoredFacts | None:
        """What a version's manifest says; None if it cannot be read. Versions never change."""
        key = (name, version)
        facts = self._facts.get(key)
        if facts is None:
            directory = self._root / name / version
            try:
                manifest = read_facts(directory)
                size = (directory / TENSORS_FILE).stat().st_size
            except (ArtifactError, OSError):
                return None
            facts = StoredFacts(
                method=sys.intern(manifest.method),
                rank=manifest.rank,
                num_virtual_tokens=manifest.num_virtual_tokens,
                base_fingerprint=sys.intern(manifest.base_fingerprint),
                quantization=sys.intern(manifest.quantization),
                size_bytes=size,
            )
            self._facts[key] = facts
        return facts

    def _forget(self, name: str) -> None:
        seen = self._seen.pop(name, None)
        for version in seen.entry.versions if seen is not None else ():
            self._facts.pop((name, version), None)


def _changed_ns(folder: Path) -> int | None:
    """When a folder's entries last changed; None if there is no such folder, or a link."""
    try:
        status = os.lstat(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_mtime_ns if stat.S_ISDIR(status.st_mode) else None


def _sure(changed_ns: int | None) -> int:
    """The time to remember for a folder that is read now."""
    if changed_ns is None or time.time_ns() - changed_ns < _COARSE_NS:
        return _UNSURE
    return changed_ns
