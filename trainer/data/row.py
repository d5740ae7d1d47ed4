"""One row of a data file, as it was read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """Columns and values; text, numbers, null, and lists or mappings of them."""

    fields: Mapping[str, Any]
    where: str
    """`file:number`, for messages: the line it begins at, or the row where there are no lines."""
