"""Where pre-flight keeps examples: in memory, or on disk for what is larger than that."""

import contextlib
import importlib.metadata
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from trainer import files
from trainer.config import TrainConfig
from trainer.data import Source
from trainer.data.disk import DiskList
from trainer.errors import DataError
from trainer.examples import Examples, InMemory
from trainer.spool import FORMAT, Spool, SpoolWriter
from trainer.tokens import Encoded
from trainer.writing import digest

# As rows, texts and token ids of Python, files of this size together take many times as much.
MAX_IN_MEMORY_BYTES = 64 << 20
# Named by its key; with the number of the process that writes it.
_SPOOL = re.compile(r"[0-9a-f]{64}(\.\d+\.partial)?")

Texts = list[Any] | DiskList[Any]
Append = Callable[[Encoded], None]
Fill = Callable[[Append], Mapping[str, Any]]
"""Appends encoded examples in order; returns facts about them, as JSON values."""


class Storage(Protocol):
    """A place for texts while they are read, and for their token ids."""

    def texts(self) -> Texts:
        """A new, empty sequence of rows or examples."""

    def tokens(
        self, key: Callable[[], str], task: str, fill: Fill
    ) -> tuple[Examples, Mapping[str, Any]]:
        """What `fill` appends, and its facts. `key` gives a hash of all that decides them."""


class Memory:
    """Lists: the plain form of `Disk`, with the same results."""

    def texts(self) -> Texts:
        """A list."""
        return []

    def tokens(
        self, key: Callable[[], str], task: str, fill: Fill
    ) -> tuple[Examples, Mapping[str, Any]]:
        """In memory."""
        encoded: list[Encoded] = []
        facts = fill(encoded.append)
        return InMemory(encoded, task), facts


class Disk:
    """Files below one folder; a spool once written is used again by whoever needs the same."""

    def __init__(self, folder: Path, num_ids: int, *, masked: bool) -> None:
        """`num_ids`: size of the vocabulary. `masked`: as `SpoolWriter`. Raises DataError."""
        self._folder = folder
        self._num_ids = num_ids
        self._masked = masked
        with _refusing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _sweep(folder)

    def texts(self) -> Texts:
        """In a file without a name."""
        with _refusing(self._folder):
            return DiskList[Any](self._folder)

    def tokens(
        self, key: Callable[[], str], task: str, fill: Fill
    ) -> tuple[Examples, Mapping[str, Any]]:
        """In a spool named by its key, found there or written."""
        path = self._folder / key()
        with contextlib.suppress(OSError, ValueError, KeyError):
            found = Spool(path, task)
            return found, found.facts
        with (
            _refusing(self._folder),
            SpoolWriter(path, self._num_ids, masked=self._masked) as writer,
        ):
            facts = fill(writer.append)
            writer.finish(facts)
        written = Spool(path, task)
        return written, written.facts


def storage_for(config: TrainConfig, sources: Sequence[Source], num_ids: int) -> Storage:
    """Disk where `data.stream` says so, or, where it is null, for large files."""
    wanted = config.data.stream
    if wanted is None:
        wanted = sum(source.num_bytes for source in sources) > MAX_IN_MEMORY_BYTES
    if not wanted:
        return Memory()
    folder = config.data.cache or config.output.dir / files.TOKENS
    return Disk(folder, num_ids, masked=config.data.assistant_turns == "all")


def discard(config: TrainConfig) -> None:
    """Removes the run's own spools; those in a `data.cache` stay for other runs."""
    folder = config.output.dir / files.TOKENS
    for spool in folder.glob("*"):
        if _SPOOL.fullmatch(spool.name):
            shutil.rmtree(spool, ignore_errors=True)
    with contextlib.suppress(OSError):
        # Not if it holds what no run has written.
        folder.rmdir()


def hash_of(*parts: Any) -> str:
    """A spool's key: sha256, in hex, of JSON values and of the code that turns them into tokens."""
    versions = [importlib.metadata.version(name) for name in ("understudy-suite", "tokenizers")]
    return digest([FORMAT, versions, *parts])


def _sweep(folder: Path) -> None:
    """Removes what processes that are gone left half-written."""
    for partial in folder.glob("*.partial"):
        process = partial.name.split(".")[-2]
        # What has this process's own number was left by one before it: in a container, numbers
        # begin anew with every start.
        is_own = process == str(os.getpid())
        if is_own or not process.isdecimal() or not _is_alive(int(process)):
            shutil.rmtree(partial, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def _refusing(folder: Path) -> Any:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written: {error.strerror}; name another folder in data.cache"
        ) from error
