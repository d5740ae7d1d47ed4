"""Wordings of common tasks: Jinja templates over the column `input` (or `messages` for chat).

Our own texts. Each ends in a line break, so that the completion begins a new line and its first
word is tokenized as at the start of a text.
"""

import difflib

from trainer.errors import ConfigError
from understudy.prompt import PromptError, PromptTemplate

# The wording for chat rows where the tokenizer brings no chat template of its own.
CHAT = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "assistant:\n"
)

TEMPLATES: dict[str, tuple[str, ...]] = {
    "answer": (
        "{{ input }}\n\nAnswer:\n",
        "Read the question and give a short answer.\n\n{{ input }}\n\nYour answer:\n",
        "Question: {{ input }}\nReply with nothing but the answer.\n",
    ),
    "chat": (CHAT,),
    "classify": (
        "{{ input }}\n\nLabel:\n",
        "Decide which class this text belongs to.\n\n{{ input }}\n\nClass:\n",
        "Text: {{ input }}\nName the category that fits best.\n",
    ),
    "code": (
        "Write the program described here.\n\n{{ input }}\n\nProgram:\n",
        "Task: {{ input }}\nSolve it in code.\n",
    ),
    "entail": (
        "{{ input }}\n\nDoes the second statement follow from the first?\n",
        "Compare the two statements.\n\n{{ input }}\n\nEntailment, contradiction or neither?\n",
    ),
    "extract": (
        "Take the facts asked for out of this text.\n\n{{ input }}\n\nFacts:\n",
        "{{ input }}\n\nList what the text says about it:\n",
    ),
    "paraphrase": (
        "Say the same in other words.\n\n{{ input }}\n\nIn other words:\n",
        "{{ input }}\n\nReworded:\n",
    ),
    "rate": (
        "Give this text a score.\n\n{{ input }}\n\nScore:\n",
        "{{ input }}\n\nHow many points does it deserve?\n",
    ),
    "rewrite": (
        "{{ input }}\n\nRewritten:\n",
        "Rewrite the text as asked.\n\n{{ input }}\n\nNew text:\n",
    ),
    "sentiment": (
        "{{ input }}\n\nSentiment:\n",
        "How does the writer feel about it?\n\n{{ input }}\n\nFeeling:\n",
        "Review: {{ input }}\nIs it positive or negative?\n",
    ),
    "summarize": (
        "{{ input }}\n\nSummary:\n",
        "Sum up what is said here in one sentence.\n\n{{ input }}\n\nIn one sentence:\n",
        "Read the text.\n\n{{ input }}\n\nWhat matters in it, in brief:\n",
    ),
    "translate": (
        "{{ input }}\n\nTranslation:\n",
        "Translate this text.\n\n{{ input }}\n\nTranslated:\n",
    ),
}


def template_by_name(name: str) -> str:
    """The wording called `name`, or `name/1` for its second one. Raises ConfigError."""
    task, _, number = name.partition("/")
    if task not in TEMPLATES:
        close = difflib.get_close_matches(task, TEMPLATES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(TEMPLATES)}"
        raise ConfigError(f"key 'data.template_name': no template {task!r}; {hint}")
    wordings = TEMPLATES[task]
    if number and not (number.isdecimal() and int(number) < len(wordings)):
        raise ConfigError(
            f"key 'data.template_name': {name!r}: {task!r} has wordings 0 to {len(wordings) - 1}"
        )
    return wordings[int(number or 0)]


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
