"""From rows to samples: the columns of a user's own file, letters for options, checks of all."""

import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from evalsuite.data import DataRow, RowReader, as_text
from evalsuite.errors import InputError, nearest
from evalsuite.types import Mode, Sample

Convert = Callable[[DataRow], Iterable[Sample]]
"""The samples of one published row. Options are given as continuations, with their space."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Columns:
    """Names of the columns of a data file."""

    input: str = "input"
    completion: str = "completion"
    """A text, or a list of texts that are all right."""
    label: str = "label"
    """With choices: one of them, or its index. Rows without it are read from `completion`."""
    choices: str = "choices"
    """Where the task lists no choices: each row's own list."""
    group: str | None = None
    """Rows with the same value share a passage and are not independent."""
    category: str | None = None
    """Strata of subsets; macro averages are means over its values."""
    fields: tuple[str, ...] = ()
    """Further columns that the template may use, and those of adapters that name them."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """What templates call the input."""
        return tuple(dict.fromkeys(("input", self.input)))


def standard(columns: Columns, choices: tuple[str, ...], mode: Mode) -> Convert:
    """The conversion of a user's own rows: one sample each."""

    def convert(row: DataRow) -> Iterator[Sample]:
        sample = Sample(
            id=row.id,
            input=row.text(columns.input) if mode is not Mode.LIKELIHOOD else _start(row, columns),
            references=(),
            group=_cell(row, columns.group),
            category=_cell(row, columns.category),
            fields={name: row.text(name) for name in columns.fields},
        )
        if mode.answered_as is not Mode.CHOICE:
            yield replace(sample, references=_references(row, columns.completion))
            return
        own = choices or row.texts(columns.choices, least=2)
        target = _target(row, columns, own)
        yield replace(sample, references=(own[target],), choices=own, target=target)

    return convert


def _start(row: DataRow, columns: Columns) -> str:
    # A text to be weighed needs no input of its own.
    return row.text(columns.input) if columns.input in row else ""


def _cell(row: DataRow, name: str | None) -> str:
    """A group or category: any plain value, as text."""
    if name is None:
        return ""
    value = row[name]
    if not isinstance(value, str | int):
        raise InputError(f"{row.where}: '{name}' is {type(value).__name__}, expected text")
    return as_text(row.where, name, str(value))


def _references(row: DataRow, name: str) -> tuple[str, ...]:
    value = row[name]
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(as_text(row.where, name, text).strip() for text in texts):
        raise InputError(f"{row.where}: '{name}' is empty; every row needs at least one reference")
    return tuple(texts)


def _target(row: DataRow, columns: Columns, choices: tuple[str, ...]) -> int:
    name = row.first(columns.label, columns.completion)
    value = row[name]
    if isinstance(value, int) and not isinstance(value, bool):
        return row.index(name, len(choices))
    stripped = [choice.strip() for choice in choices]
    label = as_text(row.where, name, value).strip()
    if label not in stripped:
        raise InputError(
            f"{row.where}: '{name}' is '{label}', not one of the choices; "
            f"{nearest(label, stripped)}"
        )
    return stripped.index(label)


def lettered(sample: Sample, mode: Mode) -> Sample:
    """The options as lettered lines below the input, and letters as what is answered."""
    # Continuations begin with the space that joins them; options given bare stay verbatim.
    joined = all(choice.startswith(" ") for choice in sample.choices)
    options = [choice[1:] if joined else choice for choice in sample.choices]
    if len(options) > len(string.ascii_uppercase):
        raise InputError(f"{len(options)} options, letters for at most 26")
    letters = string.ascii_uppercase[: len(options)]
    lines = [f"{letter}. {option}" for letter, option in zip(letters, options, strict=True)]
    text = "\n".join([sample.input, *lines])
    right = letters[sample.target or 0]
    if mode is Mode.GENERATE:
        return replace(
            sample, input=text, choices=(), target=None, references=(right,),
            completion=f" {right}", target_scores=(),
        )  # fmt: skip
    choices = tuple(f" {letter}" for letter in letters)
    return replace(sample, input=text, choices=choices, references=(f" {right}",))


def read_samples(
    files: Sequence[Path], read_rows: RowReader, convert: Convert, mode: Mode
) -> Iterator[Sample]:
    """All samples of a task's data files. Raises InputError at the first row that does not fit."""
    for path in files:
        prefix = f"{path.stem}:" if len(files) > 1 else ""
        is_empty = True
        for number, values in read_rows(path):
            row = DataRow(values, f"{path}:{number}", f"{prefix}{number}")
            for sample in convert(row):
                is_empty = False
                yield _checked(row.where, sample, mode)
        if is_empty:
            raise InputError(f"{path}: no rows")


def _checked(where: str, sample: Sample, mode: Mode) -> Sample:
    if sample.choices and mode.answered_as is Mode.CHOICE:
        if len(sample.choices) < 2 or not all(choice.strip() for choice in sample.choices):
            raise InputError(f"{where}: needs at least two choices, none of them empty")
    elif not sample.references or not all(text.strip() for text in sample.references):
        raise InputError(f"{where}: a reference is empty; remove the row or fill it in")
    if mode is Mode.LIKELIHOOD:
        return replace(sample, choices=sample.references[:1], target=0)
    if sample.choices and mode in (Mode.LETTER, Mode.GENERATE):
        try:
            return lettered(sample, mode)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
    return sample
