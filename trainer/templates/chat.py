"""Chat templates: ours, and a tokenizer's own made to read nothing but `messages`."""

from trainer.errors import ConfigError
from trainer.templates.catalog import template_by_name
from understudy.prompt import PromptError, PromptTemplate

# The wording for chat rows where the tokenizer brings no chat template of its own.
CHAT = template_by_name("chat")


def bind_chat_template(
    chat_template: str, *, bos_token: str, eos_token: str, adds_bos: bool
) -> str:
    """A tokenizer's chat template with its constants bound, so that only `messages` is left.

    `adds_bos`: the tokenizer puts `bos_token` in front of every prompt itself; the template's own
    is then left out. Raises ConfigError if it reads anything else.
    """
    constants = {
        "bos_token": "''" if adds_bos else repr(bos_token),
        "eos_token": repr(eos_token),
        "add_generation_prompt": "true",
        "tools": "none",
        "documents": "none",
    }
    try:
        wanted = PromptTemplate(chat_template).variables
        used = "".join(
            f"{{%- set {name} = {value} -%}}" for name, value in constants.items() if name in wanted
        )
        left = PromptTemplate(used + chat_template).variables if used else wanted
    except PromptError as error:
        raise ConfigError(f"the tokenizer's chat template: {error}; set data.template") from error
    if left != {"messages"}:
        raise ConfigError(
            "the tokenizer's chat template reads "
            f"{', '.join(sorted(left - {'messages'})) or 'no messages'}; set data.template"
        )
    return used + chat_template
