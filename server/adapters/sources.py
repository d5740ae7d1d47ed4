"""Which folders LoadAdapter may read: a request names a folder, the configuration allows some."""

import os
from pathlib import Path

from server.errors import InvalidRequestError

_MAX_SOURCE_CHARS = 1024


def resolve_source(source: str, roots: tuple[Path, ...]) -> tuple[Path, Path]:
    """The artifact directory that `source` names, and the root it lies below.

    `source` is absolute, or relative to one of `roots`. Symlinks are resolved first; what then
    lies outside of every root is refused, without saying whether it exists. Raises
    InvalidRequestError.
    """
    if not roots:
        raise InvalidRequestError(
            "source",
            "this server allows no adapter folders; configure adapters.roots, or publish to the "
            "store and leave source empty",
        )
    if len(source) > _MAX_SOURCE_CHARS or not source.isprintable():
        raise InvalidRequestError("source", "must be a printable path of at most 1024 characters")
    path = Path(source)
    if ".." in path.parts:
        raise InvalidRequestError("source", f"{source!r} contains '..'")
    outside = False
    for root in roots:
        resolved_root = root.resolve()
        resolved = Path(os.path.realpath(resolved_root / path))
        if not resolved.is_relative_to(resolved_root):
            outside = True
        elif os.path.isdir(resolved):
            return resolved, resolved_root
    if outside:
        raise InvalidRequestError(
            "source", f"{source!r} lies outside of the adapter folders that this server allows"
        )
    raise InvalidRequestError("source", f"{source!r}: no such directory in the adapter folders")
