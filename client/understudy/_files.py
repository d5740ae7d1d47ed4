"""File operations for the store: what they wrote survives a crash of the machine.

A file's content is on disk once the file is synced; that it exists under its name, once the folder
is. Without either a crash may lose it, and nothing but a sync orders two of them. Every write to a
store goes through here or through `os.rename` and `os.unlink`, so that tests can record them.
"""

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from understudy.artifact import ArtifactError

_BLOCK_BYTES = 1 << 20


def make_folder(folder: Path) -> None:
    """Creates a folder with its parents, where they are missing; synced, also where it was there.

    Whoever created it may not have come so far.
    """
    if not folder.parent.is_dir():
        make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def write_file(path: Path, blocks: Iterable[bytes]) -> None:
    """Creates a file and syncs its content; its folder is still to be synced."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for block in blocks:
            rest = memoryview(block)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_folder(source: Path, target: Path) -> None:
    """Copies all that is in `source` into a new folder `target`; all of it is synced.

    Links to files are followed. Raises ArtifactError for links to folders and for what is neither
    a file nor a folder.
    """
    os.mkdir(target)
    for path in sorted(source.iterdir()):
        if stat.S_ISREG(path.stat().st_mode):
            write_file(target / path.name, _blocks(path))
        elif path.is_dir() and not path.is_symlink():
            copy_folder(path, target / path.name)
        else:
            raise ArtifactError(f"{path.name}: neither a file nor a folder, or a link to a folder")
    sync_folder(target)


def sync_folder(folder: Path) -> None:
    """Syncs a folder's entries: what was created, renamed or removed in it stays so."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Removes a file or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block
