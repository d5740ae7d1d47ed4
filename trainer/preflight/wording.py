"""Which prompt template a run uses."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from trainer import data
from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.templates import CHAT, bind_chat_template, template_by_name
from understudy.prompt import PromptError, PromptTemplate


def choose_template(
    config: TrainConfig,
    rows: Sequence[data.Row],
    tokenizer: PreTrainedTokenizerBase,
    chat: bool,
    targets: Sequence[str],
) -> PromptTemplate:
    """The run's prompt template: given, named, the tokenizer's for chat, or the bare column.

    `targets` are the columns to learn, which it must not read. Raises ConfigError or DataError.
    """
    settings = config.data
    text = settings.template
    if text is None and settings.template_name is not None:
        text = template_by_name(settings.template_name)
    if text is None:
        if not chat:
            text = data.default_template(rows, targets)
        elif isinstance(tokenizer.chat_template, str):
            text = bind_chat_template(
                tokenizer.chat_template,
                bos_token=tokenizer.bos_token or "",
                eos_token=tokenizer.eos_token,
                adds_bos=tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id,
            )
        else:
            text = CHAT
    try:
        template = PromptTemplate(text)
    except PromptError as error:
        raise ConfigError(f"key 'data.template': {error}") from error
    if chat and template.variables != {"messages"}:
        raise ConfigError(
            "key 'data.template': rows hold messages, so the template must read 'messages' and "
            f"nothing else; it reads {', '.join(sorted(template.variables))}"
        )
    for column in targets:
        if not chat and column in template.variables:
            raise ConfigError(f"key 'data.template': it reads {column!r}, the text to learn")
    return template
