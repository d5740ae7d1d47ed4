"""Prompt templates: how an adapter's input becomes the text the model reads.

Trainer and server render through this one module, so a prompt at serving time equals the prompt
at training time. Templates are Jinja, run in a sandbox: an adapter is data from elsewhere, and
its template must not reach beyond its variables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, meta
from jinja2.exceptions import SecurityError

from understudy._sandbox import MAX_PROMPT_CHARS, STEPS, PromptEnvironment, Steps

# A template longer than this is not a prompt; refusing it bounds parsing cost.
MAX_TEMPLATE_CHARS = 65_536


class PromptError(ValueError):
    """The template is invalid, or the values given do not fit it."""


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
        try:
            parsed = PromptEnvironment().parse(self.template)
            PromptEnvironment().compile(self.template)
        except TemplateSyntaxError as error:
            raise PromptError(f"prompt template, line {error.lineno}: {error.message}") from error
        except (SecurityError, RecursionError) as error:
            raise PromptError(f"prompt template: {error}") from error
        if not meta.find_undeclared_variables(parsed):
            raise PromptError("prompt template names no variable; use {{ input }}")

    @cached_property
    def variables(self) -> frozenset[str]:
        """Names of the variables the template reads."""
        return frozenset(meta.find_undeclared_variables(PromptEnvironment().parse(self.template)))

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
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            if isinstance(error, PromptError):
                raise
            raise PromptError(f"prompt template cannot be rendered: {error}") from error
        return "".join(chunks)

    @cached_property
    def _compiled(self) -> Any:
        return PromptEnvironment().from_string(self.template)
