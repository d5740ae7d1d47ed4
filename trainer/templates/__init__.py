"""Wordings of common tasks: our own Jinja templates, several per task, and chat templates.

A wording reads the columns its family names, and ends in a line break, so that the completion
begins a new line and its first word is tokenized as at the start of a text.
"""

from trainer.templates.catalog import Family, families, named, template_by_name
from trainer.templates.chat import CHAT, bind_chat_template
from trainer.templates.wordings import Inverted, Wording, Wordings

__all__ = [
    "CHAT",
    "Family",
    "Inverted",
    "Wording",
    "Wordings",
    "bind_chat_template",
    "families",
    "named",
    "template_by_name",
]
