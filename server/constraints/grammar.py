"""From what a client asks for to a grammar in the library's form. Pure.

Refuses what the library would ignore or bend: the text must be what the request says, or the
request must fail.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher

from server.errors import InvalidRequestError

FIELD = "structured_output"

# Of llguidance's options, all of them, so that a schema cannot change one.
_JSON_STYLE = {
    "item_separator": ",",
    "key_separator": ":",
    # A space, or a line break with its indentation: a model must not fill max_tokens with blanks.
    "whitespace_flexible": True,
    "whitespace_pattern": r" |\n[ \t]{0,40}",
    "coerce_one_of": False,
    "lenient": False,
    # One spelling per string: an escaped key would pass as an additional property.
    "json_allowed_escapes": 'nrbtf\\"',
    "json_allow_general_unicode_escapes": False,
}

# Strings, regular expressions and comments of the EBNF dialect are skipped; the rest is searched.
_EBNF = re.compile(
    r'"(?:\\.|[^"\\\n])*"|//[^\n]*|#[^\n]*|/(?:\\.|[^/\\])+/'
    r"|(?P<token><[^<>\s]+>)|\b(?P<option>temperature|stop)\s*=",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Grammar:
    """A constraint in the library's form, not compiled yet. Equal ones have equal texts."""

    field: str
    """The request's field it came from."""
    text: str


def json_schema(text: str) -> Grammar:
    """Texts that are one JSON value valid under a JSON schema. Raises InvalidRequestError."""
    field = f"{FIELD}.json_schema"
    try:
        schema = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        raise InvalidRequestError(field, "is too deeply nested") from None
    except ValueError as error:
        raise InvalidRequestError(field, f"is not JSON: {error}") from None
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise InvalidRequestError(field, "must be a JSON object or true")
    if "x-guidance" in schema:
        raise InvalidRequestError(field, "x-guidance: the server sets these options itself")
    for part in _objects(schema):
        count = part.get("minProperties")
        if isinstance(count, int | float) and count > 1:
            # Names of additional properties may repeat, and a parser then counts them once.
            raise InvalidRequestError(
                field, "minProperties above 1 is not supported; name the properties in required"
            )
    whole = {**schema, "x-guidance": _JSON_STYLE}
    return Grammar(field, json.dumps({"grammars": [{"json_schema": whole}]}))


def regex(pattern: str) -> Grammar:
    """Texts that a regular expression (Rust's syntax, without look-around) matches as a whole."""
    return Grammar(f"{FIELD}.regex", LLMatcher.grammar_from_regex(pattern))


def choice(choices: Sequence[str]) -> Grammar:
    """Texts that are one of some strings. Raises InvalidRequestError."""
    field = f"{FIELD}.choice"
    if not choices:
        raise InvalidRequestError(field, "holds no strings")
    for index, text in enumerate(choices):
        if not text:
            raise InvalidRequestError(f"{field}.choices[{index}]", "is empty")
    # The dialect's strings are those of JSON, but for DEL.
    strings = (
        json.dumps(text, ensure_ascii=False).replace("\x7f", r"\u007f")
        for text in dict.fromkeys(choices)
    )
    return _ebnf(field, "start: CHOICE\nCHOICE: " + " | ".join(strings))


def ebnf(text: str) -> Grammar:
    """Texts that the rule `start` of a grammar in llguidance's dialect of Lark's EBNF derives.

    Raises InvalidRequestError for what is about tokens or sampling, not about text.
    """
    field = f"{FIELD}.grammar"
    for found in _EBNF.finditer(text):
        if found["token"]:
            raise InvalidRequestError(
                field, f"{found['token'][:80]}: tokens are not supported, only text"
            )
        if found["option"]:
            raise InvalidRequestError(field, f"the option {found['option']} is not supported")
    return _ebnf(field, text)


def _ebnf(field: str, text: str) -> Grammar:
    return Grammar(field, json.dumps({"grammars": [{"lark_grammar": text}]}))


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object within a JSON value, itself included."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield value
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
