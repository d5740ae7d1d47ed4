"""What all readers share about the content of files."""

import hashlib
from pathlib import Path

from trainer.errors import DataError


def file_sha256(path: Path) -> str:
    """Of a file's bytes, in hex. Raises DataError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def first_line(error: BaseException) -> str:
    """The first line of a library's error, for a message of one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0]
