"""Data: files and data sets into rows, rows into examples."""

from trainer.data.examples import (
    PREFERENCE_COLUMNS,
    Example,
    Preference,
    Values,
    column_text,
    default_template,
    format_of,
    learnt_turns,
    to_examples,
    to_preferences,
)
from trainer.data.row import Row
from trainer.data.source import Source, open_source, read_rows

__all__ = [
    "PREFERENCE_COLUMNS",
    "Example",
    "Preference",
    "Row",
    "Source",
    "Values",
    "column_text",
    "default_template",
    "format_of",
    "learnt_turns",
    "open_source",
    "read_rows",
    "to_examples",
    "to_preferences",
]
