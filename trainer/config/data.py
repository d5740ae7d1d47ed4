"""The configuration of rows, wording and split, under the key `data`."""

from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from trainer.config.common import STRICT, Positive, Share


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """Rows, wording and split."""

    train: Path | tuple[Path, ...]
    """JSONL file or files."""
    validation: Share | Path | tuple[Path, ...] = 0.05
    """JSONL files, or the share of the training rows to hold out. 0: no validation."""
    format: Literal["auto", "completion", "chat"] = "auto"
    """Rows with columns and a completion, or with `messages`. Auto: by the first row."""
    completion_column: str = "completion"
    """Column that holds the text to learn."""
    template: str | None = None
    """Jinja text of the prompt, over the row's columns. It travels with the adapter."""
    template_name: str | None = None
    """One of the wordings in `trainer.templates`: `summarize`, or `summarize/1` for the second."""
    max_length: Positive | None = None
    """Most tokens of an example, prompt and completion together. Null: the model's context. Longer
    examples are left out: cutting them would teach prompts that the server never sees."""
    max_overlong_share: Share = 0.05
    """Refuse to train if a larger share of the examples is too long."""
    max_validation_rows: Positive = 500
    """Use at most this many validation rows, drawn by hash: validation only watches the run."""
