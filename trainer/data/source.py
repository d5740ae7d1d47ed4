"""Where rows come from: a file of any known format, or a Hugging Face data set."""

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from trainer.config import DatasetConfig
from trainer.data import lines
from trainer.data.content import file_sha256
from trainer.data.hub import HubSource
from trainer.data.parquet import ParquetSource
from trainer.data.row import Row
from trainer.errors import DataError

Reader = Callable[[BinaryIO, str], Iterator[Row]]


class Source(Protocol):
    """One file or data set."""

    name: str
    """What messages call it; the `file` of `file:number`."""
    label: str
    """What records call it: without folders of this machine."""
    size: int
    """How much there is to read, in bytes or rows."""
    num_bytes: int
    """About how much memory the content takes, compressed as it is."""

    @property
    def position(self) -> int:
        """How much of `size` the running `rows` has read."""

    def rows(self) -> Iterator[Row]:
        """The rows from the first on. Raises DataError naming file, line and column."""

    def sha256(self) -> str:
        """Of the content, in hex. Raises DataError."""


def _json_rows(file: BinaryIO, name: str) -> Iterator[Row]:
    buffered = cast(gzip.GzipFile, file)
    is_array = buffered.peek(1).lstrip(lines.BYTE_ORDER_MARK + b" \t\r\n").startswith(b"[")
    return (lines.json_array_rows if is_array else lines.json_line_rows)(file, name)


READERS: dict[str, Reader] = {
    ".jsonl": lines.json_line_rows,
    ".json": _json_rows,
    ".csv": lambda file, name: lines.csv_rows(file, name, ","),
    ".tsv": lambda file, name: lines.csv_rows(file, name, "\t"),
}


class TextSource:
    """A file of lines, perhaps compressed with gzip."""

    def __init__(self, path: Path, reader: Reader) -> None:
        """Raises DataError if it cannot be read."""
        self.name = str(path)
        self.label = path.name
        self._path = path
        self._reader = reader
        self._file: BinaryIO | None = None
        try:
            self.size = self.num_bytes = path.stat().st_size
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error

    @property
    def position(self) -> int:
        """Bytes read of the file as it lies on disk."""
        return 0 if self._file is None or self._file.closed else self._file.tell()

    def rows(self) -> Iterator[Row]:
        """The rows of the file."""
        try:
            with self._path.open("rb") as self._file:
                if self._path.suffix.lower() != ".gz":
                    yield from self._reader(self._file, self.name)
                    return
                with gzip.open(self._file) as text:
                    yield from self._reader(cast(BinaryIO, text), self.name)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{self.name}: damaged gzip file: {error}") from error
        except OSError as error:
            raise DataError(f"{self.name}: cannot be read: {error.strerror}") from error

    def sha256(self) -> str:
        """Of the file's bytes."""
        return file_sha256(self._path)


def open_source(entry: Path | DatasetConfig) -> Source:
    """The source an entry of the configuration names; a file's format is told by its suffix.

    Raises DataError if there is no such file, or its format is not known.
    """
    if isinstance(entry, DatasetConfig):
        return HubSource(entry)
    if entry.is_dir():
        raise DataError(
            f"{entry}: is a folder; name its files, or write {{dataset: {entry}}} for a data set "
            "of the Hugging Face library"
        )
    suffixes = [suffix.lower() for suffix in entry.suffixes[-2:]]
    if suffixes[-1:] == [".parquet"]:
        return ParquetSource(entry)
    suffix = suffixes[0] if suffixes[1:] == [".gz"] else suffixes[-1] if suffixes else ""
    if suffix not in READERS:
        raise DataError(
            f"{entry}: its format is told by its suffix, which must be one of "
            f"{', '.join(READERS)} (each with or without .gz) or .parquet"
        )
    return TextSource(entry, READERS[suffix])


def read_rows(sources: Sequence[Source]) -> list[Row]:
    """All rows of `sources`, in order. Raises DataError, also if there are none."""
    rows = [row for source in sources for row in source.rows()]
    if not rows:
        raise DataError(f"{', '.join(source.name for source in sources)}: no rows")
    return rows
