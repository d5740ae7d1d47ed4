"""The configuration of rows, wording and split, under the key `data`."""

from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from trainer.config.common import STRICT, Positive, Share

# Fields of DataConfig that may hold paths.
PATH_KEYS = ("train", "validation", "test", "held_out")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """Rows, wording and split."""

    train: Path | tuple[Path, ...]
    """JSONL file or files."""
    validation: Share | Path | tuple[Path, ...] = 0.05
    """JSONL files, or the share of the training rows to hold out. 0: no validation."""
    test: Share | Path | tuple[Path, ...] = 0.0
    """JSONL files, or the share of the training rows to keep for the eval suite: no step and no
    choice ever sees them, and a share is written to `test.jsonl` in the output folder."""
    group_key: str | None = None
    """Column whose equal values stay on one side of the split: a customer, a document, a dialogue.
    Null: rows that ask the same stay together."""
    held_out: Path | tuple[Path, ...] | None = None
    """Fingerprints of test items to look for in the rows: files that the eval suite's verb
    `fingerprints` wrote."""
    on_leak: Literal["refuse", "drop", "warn"] | None = None
    """What to do where a training row overlaps a held-out one: refuse to train, drop the training
    row, or only report. Null: refuse where it is the same or a test item of the eval suite, report
    else."""
    format: Literal["auto", "completion", "chat"] = "auto"
    """Rows with columns and a completion, or with `messages`. Auto: by the first row."""
    completion_column: str = "completion"
    """Column that holds the text to learn."""
    template: str | None = None
    """Jinja text of the prompt, over the row's columns. It travels with the adapter."""
    template_name: str | None = None
    """One of the wordings in `trainer.templates`: `summarize`, or `summarize/1` for the second;
    `summarize/*` for all of them, of which each training example gets one by a hash of its content
    and the first travels with the adapter."""
    templates: tuple[str, ...] | None = None
    """Several wordings, names or Jinja texts over the same columns: the same with your own list."""
    inverted_share: Share = 0.0
    """Share of the training examples turned round: given the completion, learn the input (Longpre
    et al., arXiv 2301.13688, section 3.2). For families of `trainer.templates` that have it."""
    max_length: Positive | None = None
    """Most tokens of an example, prompt and completion together. Null: the model's context. Longer
    examples are left out: cutting them would teach prompts that the server never sees."""
    max_overlong_share: Share = 0.05
    """Refuse to train if a larger share of the examples is too long."""
    max_validation_rows: Positive = 500
    """Use at most this many validation rows, drawn by hash: validation only watches the run."""
