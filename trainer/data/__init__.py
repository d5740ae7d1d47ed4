"""Data: files and data sets into rows, rows into examples."""

from trainer.data.examples import (
    Example,
    Values,
    column_text,
    default_template,
    is_chat,
    to_examples,
)
from trainer.data.row import Row
from trainer.data.source import Source, open_source, read_rows

__all__ = [
    "Example",
    "Row",
    "Source",
    "Values",
    "column_text",
    "default_template",
    "is_chat",
    "open_source",
    "read_rows",
    "to_examples",
]
