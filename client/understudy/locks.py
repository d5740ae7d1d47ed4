"""Locks on parts of a store, between processes; they end with the process that holds them.

One file, `store/.locks`, has a byte for each key, at an offset hashed from it; a lock is one of
Linux's open file description locks (fcntl(2)) on that byte. So one descriptor holds any number of
locks, and a shared one needs no right to write. Two keys that hash to one byte only keep each other
waiting. Keys in use:

    <name>              exclusive: publishing, moving aliases and collecting garbage of a name
    <name>/<version>    shared: whoever serves the version; exclusive: whoever removes it
    <name>/.publish-*   exclusive: whoever writes this temporary folder
"""

import contextlib
import errno
import hashlib
import os
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from understudy.artifact import ArtifactError

LOCKS_FILE = ".locks"
# Locks are held for a few system calls, or as long as a server has a version in memory.
TIMEOUT_S = 30.0
_POLL_S = 0.005
# struct flock: type, whence, start, length, pid; padded at the end like the C structure.
_FLOCK = struct.Struct("@hhqqi0q")
_HELD = (errno.EAGAIN, errno.EACCES)
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class LocksUnsupportedError(ArtifactError):
    """This system, or the file system on which the store lies, has no such locks."""


class StoreLocks:
    """The locks that one owner holds in a store. Use from one thread at a time.

    Two of them exclude each other also within one process. Close it to let everything go.
    """

    def __init__(self, store: Path, *, read_only: bool = False, required: bool = True) -> None:
        """Opens `store`'s lock file, creating it where it is missing.

        `read_only` takes shared locks only, and needs a right to write only to create the file.
        Where there are no such locks: raises LocksUnsupportedError if they are `required`, else
        every lock can be had, which is safe for all but removing, as nobody can remove there.
        Raises ArtifactError where the file cannot be opened or locked.
        """
        self._descriptor: int | None = None
        try:
            self._descriptor = _open(store / LOCKS_FILE, read_only)
            self.take("", shared=True)
            self.release("")
        except ArtifactError as error:
            self.close()
            if required or not isinstance(error, LocksUnsupportedError):
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases every lock."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def take(self, key: str, *, shared: bool = False, timeout_s: float = 0.0) -> bool:
        """Whether the lock could be had within `timeout_s`. Raises ArtifactError."""
        deadline = time.monotonic() + timeout_s
        while not self._set("F_RDLCK" if shared else "F_WRLCK", key):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def release(self, key: str) -> None:
        """Lets a lock go."""
        self._set("F_UNLCK", key)

    @contextlib.contextmanager
    def held(self, key: str) -> Iterator[None]:
        """Holds an exclusive lock. Raises ArtifactError if others keep it for TIMEOUT_S."""
        if not self.take(key, timeout_s=TIMEOUT_S):
            raise ArtifactError(f"another process has kept {key!r} locked for {TIMEOUT_S:.0f} s")
        try:
            yield
        finally:
            self.release(key)

    def _set(self, kind: str, key: str) -> bool:
        if self._descriptor is None:
            return True
        import fcntl

        offset = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 2
        lock = _FLOCK.pack(getattr(fcntl, kind), os.SEEK_SET, offset, 1, 0)
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, lock)
        except OSError as error:
            if error.errno in _HELD:
                return False
            kind_of_error = LocksUnsupportedError if error.errno in _UNSUPPORTED else ArtifactError
            raise kind_of_error(f"{LOCKS_FILE}: cannot be locked: {error.strerror}") from error
        return True


def _open(path: Path, read_only: bool) -> int:
    if sys.platform != "linux":
        raise LocksUnsupportedError(f"stores cannot be locked on {sys.platform}")
    flags = os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        if read_only and path.exists():
            return os.open(path, os.O_RDONLY | flags)
        return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
    except OSError as error:
        raise ArtifactError(f"{LOCKS_FILE}: cannot be opened: {error.strerror}") from error
