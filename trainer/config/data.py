"""The configuration of rows, wording and split, under the key `data`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic.dataclasses import dataclass

from trainer.config.common import STRICT, Positive, PositiveFloat, Share


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DatasetConfig:
    """One split of a Hugging Face data set."""

    dataset: str
    """Its name on the hub, or a local folder of data files or of `save_to_disk`."""
    config: str | None = None
    """Which of its configurations. Null: its default."""
    split: str = "train"
    """Which of its splits; `train[:1000]` is the first thousand rows."""
    revision: str | None = None
    """Branch, tag or commit on the hub. Null: the newest."""


def _as_tuple(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


def _entry_kind(value: Any) -> str:
    return "dataset" if isinstance(value, DatasetConfig | Mapping) else "file"


def _train_kind(value: Any) -> str:
    if isinstance(value, TaskConfig) or (isinstance(value, Mapping) and "dataset" not in value):
        return "task"
    return _entry_kind(value)


def _validation_kind(value: Any) -> str:
    return "share" if isinstance(value, int | float) else "files"


# The tag by which an error's location tells the alternative; `trainer.config_file` reads it.
Entry = Annotated[
    Annotated[Path, Tag("file")] | Annotated[DatasetConfig, Tag("dataset")],
    Discriminator(_entry_kind),
]
Entries = Annotated[
    tuple[Entry, ...],
    Field(min_length=1),
    BeforeValidator(_as_tuple, json_schema_input_type=Entry | tuple[Entry, ...]),
]
"""One or several files or data sets."""
Validation = Annotated[
    Annotated[Share, Tag("share")] | Annotated[Entries, Tag("files")],
    Discriminator(_validation_kind),
]
Format = Literal["auto", "completion", "chat", "preference"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TaskConfig:
    """One task of a mixture. What is null is as `data` has it."""

    name: str
    """What metrics and records call it."""
    files: Entries
    """Its training rows: files or data sets."""
    validation: Validation | None = None
    """Files or data sets, or the share of its training rows to hold out."""
    format: Format | None = None
    """How its rows are written."""
    completion_column: str | None = None
    """Column that holds the text to learn."""
    template: str | None = None
    """Jinja text of its prompts."""
    template_name: str | None = None
    """One of the wordings in `trainer.templates`, or `summarize/*` for all of a family."""
    templates: tuple[str, ...] | None = None
    """Several wordings, names or Jinja texts."""
    weight: PositiveFloat = 1.0
    """Its share of the mixture is multiplied by this."""
    max_examples: Positive | None = None
    """Use at most this many of its training rows, drawn by hash."""


TrainEntry = Annotated[
    Annotated[Path, Tag("file")]
    | Annotated[DatasetConfig, Tag("dataset")]
    | Annotated[TaskConfig, Tag("task")],
    Discriminator(_train_kind),
]
TrainEntries = Annotated[
    tuple[TrainEntry, ...],
    Field(min_length=1),
    BeforeValidator(_as_tuple, json_schema_input_type=TrainEntry | tuple[TrainEntry, ...]),
]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MixtureConfig:
    """How often each task of a mixture is shown (Raffel et al., arXiv 1910.10683, section 3.5.2).

    The rate of a task of n training examples grows with e = min(n, `limit`), times its weight.
    """

    sampling: Literal["proportional", "equal", "temperature"] = "proportional"
    """In proportion to e; all alike; or in proportion to e ** (1 / `temperature`)."""
    temperature: PositiveFloat | None = None
    """1 is proportional, towards infinity equal. Null: 2, the best there (table 11)."""
    limit: Positive | None = None
    """Larger tasks count as if they had this many examples: the K there. FLAN (arXiv 2109.01652,
    section 2.3) takes 3,000. Null: none."""
    examples_per_epoch: Positive | None = None
    """Examples of all tasks that one epoch shows. Null: as many as there are."""


# Fields of DataConfig that may hold paths.
PATH_KEYS = ("train", "validation", "test", "held_out", "cache")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """Rows, wording and split."""

    train: TrainEntries
    """File or files (.jsonl, .json, .csv, .tsv, these also as .gz, .parquet), or data sets; or the
    tasks of a mixture, each with its own."""
    mixture: MixtureConfig | None = None
    """How tasks are mixed. Null: in proportion to their sizes."""
    validation: Validation = 0.05
    """The same, or the share of the training rows to hold out. 0: no validation."""
    test: Validation = 0.0
    """The same, or the share of the training rows to keep for the eval suite: no step and no
    choice ever sees them, and a share is written to `test.jsonl` in the output folder."""
    group_key: str | None = None
    """Column whose equal values stay on one side of the split: a customer, a document, a dialogue.
    Null: rows that ask the same stay together."""
    held_out: Path | tuple[Path, ...] | None = None
    """Fingerprints of test items to look for in the rows: files that the eval suite's verb
    `fingerprints` wrote."""
    on_leak: Literal["refuse", "drop", "warn"] | None = None
    """What to do where a training row overlaps a held-out one: refuse to train, drop the training
    row, or only report. Null: refuse where it is the same, of the same group, or a test item of the
    eval suite, report else."""
    format: Format = "auto"
    """Rows with a completion (or a label: see `objective`), with `messages`, or with `chosen` and
    `rejected`. Auto: by the columns of the first row."""
    assistant_turns: Literal["last", "all"] = "last"
    """Which of the assistant's turns a chat teaches: its last, to which all before is the prompt,
    or all of them in one go."""
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
    stream: bool | None = None
    """Keep texts and token ids on disk instead of in memory: the same result. Null: where the files
    have more than 64 MiB."""
    cache: Path | None = None
    """Folder for token ids on disk, which runs over the same data share; nothing is ever removed
    there. Null: a folder in `output.dir`, removed when the run has ended."""
