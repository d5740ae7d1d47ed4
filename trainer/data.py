"""Reads data files into rows and rows into examples: one prompt, one completion each."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.errors import DataError
from understudy.prompt import PromptError, PromptTemplate

Values = Mapping[str, str | Sequence[Mapping[str, str]]]


@dataclass(frozen=True)
class Row:
    """One line of a data file."""

    fields: Mapping[str, Any]
    where: str
    """`file:line`, for messages."""


@dataclass(frozen=True)
class Example:
    """A rendered prompt and the text to learn."""

    prompt: str
    completion: str
    where: str
    values: Values = field(default_factory=dict, compare=False)
    """What the template read, by column; empty for an example made by hand."""
    group: str | None = field(default=None, compare=False)
    """Text of the column `data.group_key`: what stays on one side of the split."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The row's own texts, without wording and completion; of a chat, its turns."""
        found: list[str] = []
        for _, value in sorted(self.values.items()):
            if isinstance(value, str):
                found.append(value)
            else:
                found += [turn["content"] for turn in value if turn.get("role") != "system"]
        return tuple(found) or (self.prompt,)

    @property
    def content(self) -> str:
        """Equal for rows that ask the same, however they are worded."""
        return "\0".join(text.strip() for text in self.texts)


def read_rows(paths: Sequence[Path]) -> list[Row]:
    """The rows of JSONL files, in order; empty lines are skipped.

    Raises DataError naming file and line: not UTF-8, not JSON, not an object, a number that is
    not finite, no rows.
    """
    rows = [row for path in paths for row in _read_file(path)]
    if not rows:
        raise DataError(f"{', '.join(map(str, paths))}: no rows")
    return rows


def _read_file(path: Path) -> Iterator[Row]:
    def refuse(token: str) -> Any:
        raise ValueError(f"{token} is not a JSON number")

    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                where = f"{path}:{number}"
                if not line.strip():
                    continue
                try:
                    fields = json.loads(line.decode("utf-8").rstrip("\r\n"), parse_constant=refuse)
                except UnicodeDecodeError as error:
                    raise DataError(f"{where}: not UTF-8 at byte {error.start}") from error
                except json.JSONDecodeError as error:
                    raise DataError(
                        f"{where}: not valid JSON: {error.msg} at column {error.colno}"
                    ) from error
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{where}: not valid JSON: {error}") from error
                if not isinstance(fields, dict):
                    kind = type(fields).__name__
                    raise DataError(f"{where}: must be an object such as {{...}}, got a {kind}")
                yield Row(fields, where)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def is_chat(rows: Sequence[Row], format_name: str) -> bool:
    """Whether rows hold `messages`; `format_name` is the configuration's `data.format`."""
    return format_name == "chat" or (format_name == "auto" and "messages" in rows[0].fields)


def default_template(rows: Sequence[Row], targets: Collection[str]) -> str:
    """The bare template for rows without wording: `{{ prompt }}` or `{{ input }}`.

    `targets` are the columns to learn. Raises DataError if the first row has neither column.
    """
    columns = rows[0].fields
    for name in ("prompt", "input"):
        if name in columns:
            return f"{{{{ {name} }}}}"
    others = ", ".join(sorted(columns.keys() - set(targets))) or "nothing else"
    raise DataError(
        f"{rows[0].where}: no column 'prompt' or 'input' (there is {others}); "
        "name the columns in data.template"
    )


def to_examples(
    rows: Sequence[Row],
    template: PromptTemplate,
    *,
    chat: bool,
    completion_column: str,
) -> list[Example]:
    """Renders every row. Raises DataError naming file, line and column."""
    examples = []
    for row in rows:
        values, completion = (
            _from_messages(row) if chat else _from_columns(row, template, completion_column)
        )
        if not completion.strip():
            raise DataError(f"{row.where}: the completion is empty; there is nothing to learn")
        try:
            prompt = template.render(values)
            f"{prompt}{completion}".encode()
        except PromptError as error:
            raise DataError(f"{row.where}: {error}") from error
        except UnicodeEncodeError as error:
            raise DataError(f"{row.where}: a text holds half a surrogate pair") from error
        examples.append(Example(prompt, completion, row.where, values))
    return examples


def _from_columns(row: Row, template: PromptTemplate, completion: str) -> tuple[Values, str]:
    values = {name: column_text(row, name) for name in sorted(template.variables)}
    return values, column_text(row, completion)


def column_text(row: Row, name: str) -> str:
    """The text or number in a column. Raises DataError naming file, line and column."""
    if name not in row.fields:
        there = ", ".join(sorted(row.fields)) or "nothing"
        raise DataError(f"{row.where}: column {name!r} is missing (there is {there})")
    value = row.fields[name]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        kind = "null" if value is None else type(value).__name__
        raise DataError(f"{row.where}: column {name!r} must be text, got {kind}")
    return str(value)


def _from_messages(row: Row) -> tuple[Values, str]:
    messages = row.fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{row.where}: column 'messages' must be a list of role and content")
    for index, message in enumerate(messages):
        if not (
            isinstance(message, dict)
            and isinstance(message.get("role"), str)
            and isinstance(message.get("content"), str)
        ):
            raise DataError(f"{row.where}: messages[{index}] must have text in role and content")
    if messages[-1]["role"] != "assistant":
        role = messages[-1]["role"]
        raise DataError(
            f"{row.where}: the last message must be the assistant's, which is learnt, got {role!r}"
        )
    turns = [{"role": m["role"], "content": m["content"]} for m in messages]
    return {"messages": turns[:-1]}, turns[-1]["content"]


def data_hash(paths: Sequence[Path]) -> str:
    """sha256, in hex, over the contents of `paths`, in order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
