"""Turns rows into examples: one prompt, one completion each."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from trainer.data.row import Row
from trainer.errors import DataError
from understudy.prompt import PromptError, PromptTemplate

Values = Mapping[str, str | Sequence[Mapping[str, str]]]


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
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{row.where}: column {name!r} must be text, got the number {value}")
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
