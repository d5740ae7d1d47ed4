"""Turns rows into examples: one prompt, one completion each."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from trainer.config.data import Format
from trainer.data.row import Row
from trainer.errors import DataError
from understudy.prompt import PromptError, PromptTemplate

PREFERENCE_COLUMNS = ("chosen", "rejected")
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
    learnt: tuple[tuple[int, int], ...] = ()
    """Parts of the prompt that are learnt, too: see `learnt_turns`."""

    @property
    def answers(self) -> tuple[str, ...]:
        """What the row says to the prompt."""
        return (self.completion,)

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


@dataclass(frozen=True)
class Preference(Example):
    """A rendered prompt and two completions, of which `completion` is the better one."""

    rejected: str = ""

    @property
    def answers(self) -> tuple[str, ...]:
        """The better one first."""
        return (self.completion, self.rejected)


def format_of(row: Row, wanted: Format) -> Format:
    """How rows are written, by their first; `wanted` is the configuration's `data.format`."""
    if wanted != "auto":
        return wanted
    if "messages" in row.fields:
        return "chat"
    return "preference" if row.fields.keys() >= {*PREFERENCE_COLUMNS} else "completion"


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
    all_turns: bool = False,
) -> list[Example]:
    """Renders every row, in order. Raises DataError naming file, line and column.

    `all_turns`: of a chat, learn the assistant's earlier turns, too.
    """
    examples = []
    for row in rows:
        values, completion = (
            _from_messages(row) if chat else _from_columns(row, template, completion_column)
        )
        if not completion.strip():
            raise DataError(f"{row.where}: the completion is empty; there is nothing to learn")
        prompt = _render(template, values, row.where)
        _check_text(completion, row.where)
        turns = learnt_turns(template, values, row.where) if chat and all_turns else ()
        examples.append(Example(prompt, completion, row.where, values, learnt=turns))
    return examples


def to_preferences(
    rows: Sequence[Row], template: PromptTemplate, *, chat: bool
) -> list[Preference]:
    """Renders every row, in order. Raises DataError naming file, line and column.

    `chat`: `chosen` and `rejected` are lists of messages, alike but for the last.
    """
    preferences = []
    for row in rows:
        sides = []
        for column in PREFERENCE_COLUMNS:
            values, text = (
                _from_messages(row, column) if chat else _from_columns(row, template, column)
            )
            if not text.strip():
                raise DataError(f"{row.where}: column {column!r} is empty; give both completions")
            sides.append((_render(template, values, row.where), text))
        (prompt, chosen), (other, rejected) = sides
        if prompt != other:
            raise DataError(
                f"{row.where}: 'chosen' and 'rejected' must hold the same messages before the last"
            )
        if chosen == rejected:
            raise DataError(f"{row.where}: 'chosen' and 'rejected' are the same; nothing to prefer")
        _check_text(chosen + rejected, row.where)
        preferences.append(Preference(prompt, chosen, row.where, values, rejected=rejected))
    return preferences


def learnt_turns(
    template: PromptTemplate, values: Values, where: str
) -> tuple[tuple[int, int], ...]:
    """Where the assistant's turns stand in the prompt of a chat: first character, and after last.

    Raises DataError if a turn does not stand there right behind the prompt that asks for it: what
    is learnt would not be what the server asks for.
    """
    messages = cast(Sequence[Mapping[str, str]], values["messages"])
    prompt = _render(template, values, where)
    found = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or not message["content"].strip():
            continue
        head = _render(template, {"messages": messages[:index]}, where)
        text = message["content"]
        if not prompt.startswith(text, len(head)):
            # Many templates trim.
            text = text.strip()
        if not prompt.startswith(head) or not prompt.startswith(text, len(head)):
            raise DataError(
                f"{where}: messages[{index}] does not follow, as the template words it, the prompt "
                "that asks for it; set data.assistant_turns to last, or another data.template"
            )
        found.append((len(head), len(head) + len(text)))
    return tuple(found)


def _render(template: PromptTemplate, values: Values, where: str) -> str:
    try:
        return template.render(values)
    except PromptError as error:
        raise DataError(f"{where}: {error}") from error


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: a text holds half a surrogate pair") from error


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
    text = str(value)
    if not text.isascii():
        _check_text(text, row.where)
    return text


def _from_messages(row: Row, column: str = "messages") -> tuple[Values, str]:
    messages = row.fields.get(column)
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{row.where}: column {column!r} must be a list of role and content")
    for index, message in enumerate(messages):
        if not (
            isinstance(message, dict)
            and isinstance(message.get("role"), str)
            and isinstance(message.get("content"), str)
        ):
            raise DataError(f"{row.where}: {column}[{index}] must have text in role and content")
    if messages[-1]["role"] != "assistant":
        role = messages[-1]["role"]
        raise DataError(
            f"{row.where}: the last message must be the assistant's, which is learnt, got {role!r}"
        )
    turns = [{"role": m["role"], "content": m["content"]} for m in messages]
    return {"messages": turns[:-1]}, turns[-1]["content"]
