"""Files of word lists: YAML in UTF-8, checked against a type."""

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from evalsuite.errors import InputError

T = TypeVar("T")


def read_word_file(path: Path, kind: type[T], flag: str = "") -> tuple[T, bytes]:
    """The file as `kind`, and its bytes. Raises InputError, which begins with `flag`."""
    said = f"{flag} {path}".strip()
    try:
        content = path.read_bytes()
        return TypeAdapter(kind).validate_python(yaml.safe_load(content.decode("utf-8"))), content
    except OSError as error:
        raise InputError(f"{said}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{said}: not YAML in UTF-8") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{said}: {where}: {first['msg'][:1].lower()}{first['msg'][1:]}"
        ) from error
