r"""Regular expressions of configurations, which come from elsewhere: only what cannot take long is
matched.

Python's `re` backtracks: a repetition within another takes time exponential in the path's length.
Served are names, `.`, escapes (`\.`, `\d`, `\w`) and classes (`[...]`), each repeated or not, and
groups of those with `|` between them. Groups may be optional, hold no groups, and are not repeated.
A path of n characters then takes at most about `_MAX_WAYS * n**MAX_REPETITIONS / 6` steps.
"""

import re

from server.adapters.peft_format import CONFIG
from server.errors import AdapterRefusedError
from understudy.artifact import shorten

MAX_REPETITIONS = 3
"""Of an expression and what it is put into: `*`, `+` and `{...}`."""
# In how many ways optional parts and groups may match at one place, multiplied.
_MAX_WAYS = 16
_MAX_CHARS = 1000

_ITEM = re.compile(
    r"(?:[\w-]|\.|\\[.dDwW-]|\[\^?(?:[\w.-]|\\[.dDwW-])+\])"
    r"(?P<times>(?:[*+?]|\{\d{1,3}(?:,(?:\d{1,3})?)?\})\??)?"
)
_GROUP = re.compile(r"\((?:\?:)?(?P<inside>[^()]*)\)(?P<times>\??)")
_NAME = re.compile(r"(?:[\w-]|\\\.)*")


def compile_pattern(key: str, pattern: str, form: str = "{}") -> re.Pattern[str]:
    """The expression that the configuration has in `key`, put into `form` in the place of `{}`.

    Raises AdapterRefusedError if it is malformed, or more than is served.
    """
    text = pattern.removeprefix("^")
    cost = _cost(text[:-1] if text.endswith("$") else text) if len(text) <= _MAX_CHARS else None
    problem = "is not served"
    if cost and cost[0] + form.count("*") <= MAX_REPETITIONS and cost[1] <= _MAX_WAYS:
        try:
            return re.compile(form.replace("{}", pattern))
        except re.error as error:
            problem = f"is malformed ({error})"
    raise AdapterRefusedError(
        f"{CONFIG}: {key}: expression {shorten(pattern)} {problem}; write module names"
    )


def _cost(text: str, *, nested: bool = False) -> tuple[int, int] | None:
    """How many repetitions an expression has, and in how many ways it may match beside them; None
    for what is not served."""
    branches = _GROUP.sub("()", text).split("|")
    repetitions, ways = 0, len(branches)
    if all(map(_NAME.fullmatch, branches)):
        # At one place only those that begin others match with them.
        ways = max(sum(long.startswith(short) for short in set(branches)) for long in branches)
    at = 0
    while at < len(text):
        if text[at] == "|":
            at += 1
            continue
        part = _ITEM.match(text, at)
        if part is None:
            part = None if nested else _GROUP.match(text, at)
            inside = part and _cost(part["inside"], nested=True)
            if part is None or inside is None:
                return None
            repetitions, ways = repetitions + inside[0], ways * inside[1]
        times = part["times"] or ""
        repetitions += times[:1] in ("*", "+", "{")
        ways *= 2 if times[:1] == "?" else 1
        at = part.end()
    return repetitions, ways
