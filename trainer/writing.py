"""How the trainer writes JSON: whole files or none, in numbers that every reader takes."""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.errors import ConfigError


def json_line(
    value: Any, *, ensure_ascii: bool = True, default: Callable[[Any], str] | None = None
) -> str:
    """`value` as one line of JSON. What is not finite is null, for JSON has no such number.

    `default` makes text of what is no JSON value. Raises TypeError where it is not given.
    """
    return json.dumps(_finite(value), ensure_ascii=ensure_ascii, default=default, allow_nan=False)


def pretty(value: Any, *, sort_keys: bool = False) -> str:
    """The same indented, for people, with a newline at the end. Raises TypeError."""
    return json.dumps(_finite(value), indent=2, sort_keys=sort_keys, allow_nan=False) + "\n"


def canonical(value: Any) -> str:
    """One text for equal values, to be hashed: keys sorted; what is no JSON value is its text."""
    return json.dumps(value, sort_keys=True, default=str)


def digest(value: Any) -> str:
    """sha256, in hex, of `canonical`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def write_json(path: Path, value: Any, *, sort_keys: bool = False) -> None:
    """Writes `pretty`; a crash leaves what was there or all of this. Raises OSError."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(pretty(value, sort_keys=sort_keys))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(said: str, folder: Path) -> None:
    """Raises ConfigError if no file can be made in `folder`, or no folder of that name; `said`
    names it in the message. Leaves nothing behind."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        # A file without a name, where the system has those.
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise ConfigError(
            f"{said}: {str(folder)!r} cannot be written: {error.strerror}; name another folder"
        ) from error


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
