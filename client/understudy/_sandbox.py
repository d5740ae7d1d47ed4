"""The Jinja environment of prompt templates: no reach beyond the variables, and bounded work.

Jinja's own sandbox stops attribute tricks but not bombs: a few bytes of template can ask for
gigabytes or loop forever. Here every operation that makes text longer than its operands checks
the result's size first, filters and string methods are those of a fixed list, and loops share a
budget of steps. Chat templates of published models stay within this.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, cast

from jinja2 import StrictUndefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

# A prompt of this many characters fits no context; 4 bytes each in memory at worst.
MAX_PROMPT_CHARS = 4_000_000
# Rounds of all loops of one rendering together: a tenth of a second or so.
MAX_LOOP_STEPS = 100_000
# Name under which a rendering's step counter travels in its context.
STEPS = "_steps"

_STRING_METHODS = frozenset(
    {"strip", "lstrip", "rstrip", "split", "startswith", "endswith", "lower", "upper", "title"}
    | {"capitalize", "find", "count", "isdigit", "removeprefix", "removesuffix"}
)
_FILTERS = (
    "capitalize", "count", "d", "default", "first", "int", "items", "last", "length", "list",
    "lower", "map", "reject", "rejectattr", "reverse", "select", "selectattr", "title", "trim",
    "upper",
)  # fmt: skip

_REFUSED: tuple[type[nodes.Node], ...] = (
    nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.Include, nodes.Import,
    nodes.FromImport, nodes.Extends, nodes.Block,
)  # fmt: skip


class Steps:
    """Counts the loop rounds of one rendering. `next` raises SecurityError beyond the budget."""

    def __init__(self) -> None:
        self._left = MAX_LOOP_STEPS

    def next(self) -> None:
        """Takes one round from the budget."""
        self._left -= 1
        if self._left < 0:
            raise SecurityError(f"loops take more than {MAX_LOOP_STEPS} rounds")


class PromptEnvironment(ImmutableSandboxedEnvironment):
    """See the module's docstring. Renderings pass a `Steps` under the name `STEPS`."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined,
            keep_trailing_newline=True,
            autoescape=False,
            finalize=_plain,
        )
        for name in ("range", "lipsum", "cycler", "joiner"):
            self.globals.pop(name, None)
        self.filters = {name: self.filters[name] for name in _FILTERS}
        self.filters |= {"join": _join, "string": _string, "tojson": _tojson, "rounds": _rounds}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        parsed = super()._parse(source, name, filename)
        for node in parsed.find_all(_REFUSED):
            kind = type(node).__name__.lower()
            raise SecurityError(f"line {node.lineno}: {kind} is not allowed in a prompt template")
        transformed: nodes.Template = _Bounds().visit(parsed)
        return transformed

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`+` within the size limit; `*` and `%` between numbers; never `**`."""
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "+":
            if not numbers:
                _check_size(len(left) + len(right))
            return left + right
        if not numbers or operator == "**":
            raise SecurityError(f"operator {operator!r} is not allowed here in a prompt template")
        return left * right if operator == "*" else left % right

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls what Jinja's sandbox allows, of strings' methods only the harmless ones."""
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str) and name not in _STRING_METHODS:
            raise SecurityError(f"method {name!r} of a string is not allowed in a prompt template")
        return super().call(context, obj, *args, **kwargs)


class _Bounds(NodeTransformer):
    """Sends `~` through `call_binop` and loops through the `rounds` filter."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        parts = [_filter(part, "string") for part in node.nodes]
        joined = parts[0]
        for part in parts[1:]:
            joined = nodes.Add(joined, part, lineno=node.lineno)
        return joined

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _filter(node.iter, "rounds")
        return node


def _filter(node: nodes.Node, name: str) -> nodes.Expr:
    return nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)


def _check_size(num_chars: int) -> None:
    if num_chars > MAX_PROMPT_CHARS:
        raise SecurityError(f"a text would exceed {MAX_PROMPT_CHARS} characters")


def _plain(value: Any) -> Any:
    """Lets only text and numbers into the prompt: a list's text may be far larger than it."""
    if value is None or isinstance(value, str | int | float | Undefined):
        return value
    raise SecurityError(f"a {type(value).__name__} cannot stand in a prompt; name its parts")


def _string(value: Any) -> str:
    return str(_plain(value))


def _join(values: Iterable[Any], separator: str = "", attribute: Any = None) -> str:
    if attribute is not None:
        raise SecurityError("join takes no attribute in a prompt template; use map")
    parts: list[str] = []
    num_chars = 0
    for value in values:
        parts.append(_string(value))
        num_chars += len(parts[-1]) + len(separator)
        _check_size(num_chars)
    return separator.join(parts)


def _tojson(value: Any, indent: int | None = None) -> str:
    parts: list[str] = []
    num_chars = 0
    spaces = None if indent is None else min(int(indent), 8)
    for part in json.JSONEncoder(indent=spaces, ensure_ascii=False).iterencode(value):
        parts.append(part)
        num_chars += len(part)
        _check_size(num_chars)
    return "".join(parts)


@pass_context
def _rounds(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    steps = context.resolve(STEPS)
    if not isinstance(steps, Steps):
        raise SecurityError(f"{STEPS} is not a name for a prompt template")
    for value in values:
        steps.next()
        yield value
