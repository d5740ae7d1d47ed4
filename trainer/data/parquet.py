"""Reader of Parquet files, with pyarrow."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.data.content import file_sha256, first_line
from trainer.data.row import Row
from trainer.errors import DataError

# Rows decoded at a time.
BATCH_ROWS = 1024


class ParquetSource:
    """A Parquet file; a row's number is counted from 1."""

    def __init__(self, path: Path) -> None:
        """Raises DataError if it cannot be read, or pyarrow is not installed."""
        self.name = str(path)
        self.label = path.name
        self.position = 0
        self._path = path
        with self._opened() as file:
            self.size = file.metadata.num_rows
        self.num_bytes = path.stat().st_size

    def rows(self) -> Iterator[Row]:
        """The rows of the file."""
        self.position = 0
        with self._opened() as file:
            batches = file.iter_batches(batch_size=BATCH_ROWS)
            while (batch := self._next(batches)) is not None:
                for fields in batch.to_pylist():
                    self.position += 1
                    yield Row(fields, f"{self.name}:{self.position}")

    def sha256(self) -> str:
        """Of the file's bytes."""
        return file_sha256(self._path)

    def _opened(self) -> Any:
        try:
            # By name, since it is no dependency.
            parquet = importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            raise DataError(
                f"{self.name}: Parquet needs the package pyarrow: "
                "pip install 'understudy-suite[hub]'; or convert the file to .jsonl"
            ) from error
        try:
            return parquet.ParquetFile(self._path)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.name}: cannot be read: {first_line(error)}") from error

    def _next(self, batches: Iterator[Any]) -> Any | None:
        try:
            return next(batches, None)
        except (OSError, ValueError) as error:
            after = f"damaged after row {self.position}"
            raise DataError(f"{self.name}: {after}: {first_line(error)}") from error
