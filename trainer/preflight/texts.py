"""A task's rows: read once, rendered, and split into training, validation and test."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from trainer import data
from trainer.data import Example, Row, Source
from trainer.data.disk import Chained, Picked
from trainer.errors import DataError
from trainer.objectives import Objective
from trainer.preflight.reading import ReadingView, chunks
from trainer.preflight.split import Part, Split, drawn, part_of
from trainer.preflight.storage import Storage
from trainer.preflight.wording import choose_wordings
from trainer.tasks import Task
from trainer.templates import Wordings

Pairs = Iterator[tuple[Row, Example]]


@dataclass(frozen=True)
class TaskTexts:
    """The examples of a task, as texts."""

    task: Task
    wordings: Wordings
    split: Split
    test_rows: Sequence[Row]
    """Rows of the training files that were held out for the eval suite, as they were read."""
    sources: tuple[Source, ...]
    """What was read: training, validation, test."""


def read_texts(
    task: Task,
    sources: dict[Part, tuple[Source, ...]],
    tokenizer: PreTrainedTokenizerBase,
    objective: Objective,
    storage: Storage,
    view: ReadingView,
) -> TaskTexts:
    """Reads the files of a task; `sources` by the part they are named for.

    Raises ConfigError or DataError.
    """
    settings, seed = task.config.data, task.config.seed
    rows = view.rows(sources["train"])
    first = next(rows, None)
    if first is None:
        raise DataError(f"{', '.join(source.name for source in sources['train'])}: no rows")
    row_format = data.format_of(first, settings.format)
    preferences = row_format == "preference"
    chat = row_format == "chat" or (preferences and isinstance(first.fields.get("chosen"), list))
    if preferences and row_format not in objective.formats:
        _refuse_preferences(task, itertools.chain([first], rows), tokenizer, objective)
    targets = objective.target_columns(settings)
    wordings = choose_wordings(task.config, [first], tokenizer, chat, targets)

    def examples(rows: Iterator[Row]) -> Pairs:
        for chunk in chunks(rows):
            read = objective.read(chunk, wordings.serving, settings, chat=chat)
            for row, example in zip(chunk, read, strict=True):
                if settings.group_key is not None:
                    group = data.column_text(row, settings.group_key)
                    example = replace(example, group=group)
                yield row, example

    parts: dict[Part, Any] = {
        "train": storage.texts(),
        "validation": storage.texts(),
        "test": storage.texts(),
    }
    test_rows = storage.texts()
    validation, test = task.shares
    for row, example in examples(itertools.chain([first], rows)):
        part = part_of(example, validation, test, seed)
        parts[part].append(example)
        if part == "test":
            test_rows.append(row)
    _check_shares(task, {part: len(examples) for part, examples in parts.items()})
    held_out: tuple[Part, ...] = ("validation", "test")
    for part in held_out:
        for _, example in examples(view.rows(sources[part])):
            parts[part].append(example)
        if sources[part] and not len(parts[part]):
            raise DataError(f"{', '.join(source.name for source in sources[part])}: no rows")
    if task.max_examples is not None and task.max_examples < len(parts["train"]):
        parts["train"] = Picked(parts["train"], drawn(parts["train"], task.max_examples, seed))
    return TaskTexts(
        task,
        wordings,
        Split(**parts),
        test_rows,
        sources["train"] + sources["validation"] + sources["test"],
    )


def joined(texts: Sequence[TaskTexts]) -> Split:
    """The parts of all tasks, one task after the other."""
    parts: dict[str, Sequence[Example]] = {
        part: Chained([getattr(of.split, part) for of in texts])
        for part in ("train", "validation", "test")
    }
    return Split(**parts)


def _check_shares(task: Task, sizes: dict[Part, int]) -> None:
    total = sum(sizes.values())
    parts: tuple[Part, ...] = ("validation", "test")
    for part, share in zip(parts, task.shares, strict=True):
        if share and not (sizes["train"] and sizes[part]):
            side = "training" if not sizes["train"] else part
            raise DataError(
                f"data.{part} {share} of {total} rows leaves no {side} rows; give a larger or "
                "smaller share, a file, or 0"
            )


def _refuse_preferences(
    task: Task, rows: Iterator[Row], tokenizer: PreTrainedTokenizerBase, objective: Objective
) -> None:
    """Reads all rows, for theirs are the first mistakes to tell of; then raises DataError."""
    first = next(rows)
    chat = isinstance(first.fields.get("chosen"), list)
    wordings = choose_wordings(task.config, [first], tokenizer, chat, data.PREFERENCE_COLUMNS)
    num_rows = 0
    for chunk in chunks(itertools.chain([first], rows)):
        num_rows += len(data.to_preferences(chunk, wordings.serving, chat=chat))
    raise DataError(
        f"{first.where}: {num_rows} rows with 'chosen' and 'rejected' can be read, but the "
        f"objective {task.config.objective.type!r} does not learn preferences, and those that do "
        "(reward, dpo) are still to come; give rows with a completion or messages"
    )
