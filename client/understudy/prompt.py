"""Prompt templates: how an adapter's input becomes the text the model reads.

Trainer and server render through this one module, so a prompt at serving time equals the prompt
at training time. Templates are Jinja, run in a sandbox: an adapter is data from elsewhere, and
its template must not reach beyond its variables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.exceptions import SecurityError

from understudy._sandbox import MAX_PROMPT_CHARS, STEPS, PromptEnvironment, Steps

# A template longer than this is not a prompt. Compiling takes time by its tokens, not its length.
MAX_TEMPLATE_CHARS = 65_536
MAX_TEMPLATE_TOKENS = 8192


MESSAGES = "messages"
"""The variable that holds a conversation; all others are texts."""

# That many values, each a few thousand characters, take well under a millisecond.
_MAX_NAMES = 8


class PromptError(ValueError):
    """The template is invalid, or the values given do not fit it."""


# What a template can bring about while it is rendered.
_FAULTS = (
    TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError,
    RecursionError, MemoryError,
)  # fmt: skip


@dataclass(frozen=True)
class PromptTemplate:
    """A Jinja template with its variables checked.

    `template` renders the whole prompt, up to the point where the completion begins.
    Raises PromptError on construction if it does not parse, names no variable, or is too long.
    """

    template: str

    def __post_init__(self) -> None:
        """Parses the template."""
        if len(self.template) > MAX_TEMPLATE_CHARS:
            raise PromptError(
                f"prompt template has {len(self.template)} characters, at most "
                f"{MAX_TEMPLATE_CHARS} are allowed"
            )
        environment = PromptEnvironment()
        try:
            num_tokens = sum(1 for _ in environment.lex(self.template))
            if num_tokens > MAX_TEMPLATE_TOKENS:
                raise PromptError(
                    f"prompt template has {num_tokens} tokens, at most {MAX_TEMPLATE_TOKENS} are "
                    "allowed"
                )
            parsed = environment.parse(self.template)
            environment.compile(self.template)
        except TemplateSyntaxError as error:
            raise PromptError(f"prompt template, line {error.lineno}: {error.message}") from error
        except SyntaxError as error:
            # Of the Python that Jinja makes of it: its line is not the template's.
            raise PromptError(f"prompt template: {error.msg}") from error
        except PromptError:
            raise
        except (SecurityError, RecursionError, ValueError, OverflowError, MemoryError) as error:
            raise PromptError(f"prompt template: {error}") from error
        if not meta.find_undeclared_variables(parsed):
            raise PromptError("prompt template names no variable; use {{ input }}")

    @cached_property
    def variables(self) -> frozenset[str]:
        """Names of the variables the template reads."""
        return frozenset(meta.find_undeclared_variables(PromptEnvironment().parse(self.template)))

    @cached_property
    def text_variable(self) -> str | None:
        """The variable that a plain text fills: the only one there is, unless it is the list
        `messages`."""
        (name, *others) = self.variables
        return None if others or name == MESSAGES else name

    @cached_property
    def may_take_long(self) -> bool:
        """Whether rendering may take much longer than its text and values are long."""
        parsed = PromptEnvironment().parse(self.template)
        growing = (nodes.For, nodes.Assign, nodes.AssignBlock, nodes.Add, nodes.With)
        if next(parsed.find_all(growing), None) is not None:
            return True
        # `join` repeats its separator, and each name its value.
        if any(use.name in ("join", "tojson") for use in parsed.find_all(nodes.Filter)):
            return True
        return sum(1 for _ in parsed.find_all(nodes.Name)) > _MAX_NAMES

    def render(self, values: Mapping[str, str | Sequence[Mapping[str, str]]]) -> str:
        """The prompt for `values` (variable name -> text, or `messages` -> role/content mappings).

        Raises PromptError if a variable is missing or unknown, or rendering fails.
        """
        missing = sorted(self.variables - values.keys())
        unknown = sorted(values.keys() - self.variables)
        if missing or unknown:
            problems = [f"missing {', '.join(missing)}"] if missing else []
            problems += [f"unknown {', '.join(unknown)}"] if unknown else []
            raise PromptError(
                f"prompt template takes {', '.join(sorted(self.variables))}: {'; '.join(problems)}"
            )
        chunks: list[str] = []
        num_chars = 0
        try:
            for chunk in self._compiled.generate({**values, STEPS: Steps()}):
                num_chars += len(chunk)
                if num_chars > MAX_PROMPT_CHARS:
                    raise PromptError(f"rendered prompt exceeds {MAX_PROMPT_CHARS} characters")
                chunks.append(chunk)
            text = "".join(chunks)
            if not text.isascii():
                # Half of a surrogate pair is no character, and no tokenizer takes it.
                text.encode()
        except PromptError:
            raise
        except UnicodeEncodeError as error:
            raise PromptError("prompt template: a text holds half a surrogate pair") from error
        except _FAULTS as error:
            raise PromptError(f"prompt template cannot be rendered: {error}") from error
        return text

    @cached_property
    def _compiled(self) -> Any:
        return PromptEnvironment().from_string(self.template)
