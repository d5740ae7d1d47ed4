"""Which prompt templates a run uses."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from trainer import data
from trainer.config import DataConfig, TrainConfig
from trainer.errors import ConfigError
from trainer.templates import (
    CHAT,
    Inverted,
    Wording,
    Wordings,
    bind_chat_template,
    families,
    named,
)
from understudy.prompt import PromptError, PromptTemplate

# What tells a Jinja text from the name of a wording.
_JINJA = ("{{", "{%")


def choose_wordings(
    config: TrainConfig,
    rows: Sequence[data.Row],
    tokenizer: PreTrainedTokenizerBase,
    chat: bool,
    targets: Sequence[str],
) -> Wordings:
    """The run's templates: given, named, the tokenizer's for chat, or the bare column.

    `targets` are the columns to learn, which no template may read. Raises ConfigError, or DataError
    where the rows have no column for the bare one.
    """
    settings = config.data
    found = [Wording(name, _parsed(text, key)) for key, name, text in _texts(settings)] or [
        Wording("default", _parsed(_default(rows, tokenizer, chat, targets), "data.template"))
    ]
    for wording in found:
        _check_columns(wording, found[0], chat, targets)
    if not settings.inverted_share:
        return Wordings(tuple(found))
    if config.objective.type != "supervised":
        raise ConfigError(
            f"key 'data.inverted_share': {config.objective.type!r} learns no text; leave it out"
        )
    return Wordings(tuple(found), _inverted(found, settings), settings.inverted_share)


def _texts(settings: DataConfig) -> list[tuple[str, str, str]]:
    """Key, name and text of each wording that the configuration gives."""
    if settings.template is not None:
        return [("data.template", "given", settings.template)]
    if settings.template_name is not None:
        key = "data.template_name"
        return [(key, name, text) for name, text in named(settings.template_name, key)]
    found: dict[str, tuple[str, str, str]] = {}
    key = "data.templates"
    for number, entry in enumerate(settings.templates or ()):
        if any(sign in entry for sign in _JINJA):
            found.setdefault(entry, (key, f"given/{number}", entry))
        else:
            for name, text in named(entry, key):
                found.setdefault(text, (key, name, text))
    if settings.templates is not None and not found:
        raise ConfigError("key 'data.templates': the list is empty; name wordings, or leave it out")
    return list(found.values())


def _default(
    rows: Sequence[data.Row],
    tokenizer: PreTrainedTokenizerBase,
    chat: bool,
    targets: Sequence[str],
) -> str:
    if not chat:
        return data.default_template(rows, targets)
    given = tokenizer.chat_template
    if isinstance(given, dict):
        # Tokenizers with several name the usual one so.
        given = given.get("default")
    if not isinstance(given, str):
        return CHAT
    return bind_chat_template(
        given,
        bos_token=tokenizer.bos_token or "",
        eos_token=tokenizer.eos_token,
        adds_bos=tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id,
    )


def _parsed(text: str, key: str) -> PromptTemplate:
    try:
        return PromptTemplate(text)
    except PromptError as error:
        raise ConfigError(f"key {key!r}: {error}") from error


def _check_columns(wording: Wording, first: Wording, chat: bool, targets: Sequence[str]) -> None:
    variables = wording.template.variables
    reads = ", ".join(sorted(variables))
    if chat and variables != {"messages"}:
        raise ConfigError(
            "key 'data.template': rows hold messages, so the template must read 'messages' and "
            f"nothing else; it reads {reads}"
        )
    for column in targets:
        if not chat and column in variables:
            raise ConfigError(f"key 'data.template': it reads {column!r}, the text to learn")
    if variables != first.template.variables:
        raise ConfigError(
            f"key 'data.templates': {wording.name!r} reads {reads}, {first.name!r} reads "
            f"{', '.join(sorted(first.template.variables))}; wordings of one adapter read the same "
            "columns"
        )


def _inverted(found: Sequence[Wording], settings: DataConfig) -> tuple[Inverted, ...]:
    wordings = []
    for family in dict.fromkeys(wording.name.partition("/")[0] for wording in found):
        texts = families()[family].inverted if family in families() else ()
        for number, text in enumerate(texts):
            template = PromptTemplate(text)
            (asks_for,) = set(families()[family].columns) - template.variables
            wordings.append(Inverted(f"{family}/inverted/{number}", template, asks_for))
    if not wordings:
        able = ", ".join(family.name for family in families().values() if family.inverted)
        raise ConfigError(
            f"key 'data.inverted_share': {found[0].name!r} has no inverted wordings; these do: "
            f"{able}"
        )
    return tuple(wordings)
