"""How an adapter's place elsewhere is written: one spelling for each place."""

import re
from collections.abc import Collection
from urllib.parse import urlsplit

_MAX_CHARS = 1024
# No percent escapes, no user names, no chained file systems.
_SOURCE = re.compile(
    r"([a-z][a-z0-9]*)://([A-Za-z0-9._-]+(?::[0-9]{1,5})?)((?:/[\w.~=@+,-]+)*)/?", re.A
)
_HUB_KINDS = frozenset({"models", "datasets", "spaces", "buckets"})
_HUB_PATH = re.compile(r"/[\w.-]+(?:@[\w.-]+)?(?:/[\w.~=+,-]+)*", re.A)


def normalized(source: str, schemes: Collection[str]) -> str:
    """The one spelling of a place. Raises ValueError saying what is wrong with it."""
    if len(source) > _MAX_CHARS:
        raise ValueError(f"more than {_MAX_CHARS} characters")
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise ValueError("must be SCHEME://PLACE/PATH, without escapes and user names")
    scheme, place, path = match.groups()
    if scheme not in schemes:
        raise ValueError(f"{scheme}:// is none of {', '.join(sorted(schemes))}")
    if any(part in (".", "..") for part in path.split("/")):
        raise ValueError("must not contain '.' or '..'")
    if scheme == "hf":
        if place in _HUB_KINDS or (path and not _HUB_PATH.fullmatch(path)):
            raise ValueError("must be hf://ORG/REPO[@REVISION][/FOLDER] of a model repository")
        return f"hf://{place}{path}"
    if scheme in ("http", "https"):
        parts = urlsplit(f"{scheme}://{place}")
        port = parts.port if parts.port not in (None, 80 if scheme == "http" else 443) else None
        place = (parts.hostname or "") + (f":{port}" if port is not None else "")
    return f"{scheme}://{place}{path}"
