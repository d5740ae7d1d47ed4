"""Grammars that are refused: by us, by the library, and by the trial that spares the server."""

import json
import time
from typing import Any

import pytest

from server.constraints import grammar
from server.constraints.compiler import GrammarCompiler
from server.errors import InvalidRequestError


def schema(value: Any) -> grammar.Grammar:
    return grammar.json_schema(json.dumps(value))


def refusal(compiler: GrammarCompiler, make: Any, *args: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        compiler.compile(make(*args))
    return caught.value


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "contains": {"type": "integer"}}, "contains"),
        ({"type": "integer", "not": {"const": 3}}, "not"),
        ({"if": {"type": "integer"}, "then": {"minimum": 5}}, "if"),
        ({"type": "object", "propertyNames": {"pattern": "^a"}}, "propertyNames"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"type": "string", "format": "unheard-of"}, "unheard-of"),
        ({"type": "strin"}, "strin"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"$ref": "https://example.org/schema.json"}, "https://example.org/schema.json"),
        ({"$ref": "#/$defs/missing"}, "missing"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "minimum"),
        ({"type": "object", "required": ["z"], "additionalProperties": False}, "'z'"),
        ({"$ref": "#"}, "no text matches"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"anyOf": [{"type": "object", "minProperties": 3}]}, "minProperties"),
        ({"x-guidance": {"lenient": True}, "uniqueItems": True}, "x-guidance"),
        (False, "must be a JSON object or true"),
        ([], "must be a JSON object or true"),
        ({"type": "number", "maximum": float("inf")}, "Infinity"),
    ],
)
def test_schemas(compiler: GrammarCompiler, value: Any, says: str) -> None:
    """Nothing that changes what is valid is ignored."""
    error = refusal(compiler, schema, value)
    assert error.field == "structured_output.json_schema"
    assert says in str(error)


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", "[" * 100_000])
def test_not_json(compiler: GrammarCompiler, text: str) -> None:
    assert refusal(compiler, grammar.json_schema, text).field == "structured_output.json_schema"


@pytest.mark.parametrize("pattern", ["", "(a", "a$b", r"\bfoo", "(?=a)b", "a{2,1}"])
def test_patterns(compiler: GrammarCompiler, pattern: str) -> None:
    assert refusal(compiler, grammar.regex, pattern).field == "structured_output.regex"


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("a{200000}b", "too many expressions"),
        ("a{99999999}b", "too many expressions"),
        ("a{2000000000}b", "too many expressions"),
        ("a{99999999}", "MiB"),
        ("(a{9999}){9999}b", "MiB"),
        ("a{99999999999}", "invalid regular expression"),
    ],
)
def test_counts(compiler: GrammarCompiler, pattern: str, says: str) -> None:
    """Work that the library gives up while compiling is a refusal, not a generation that fails."""
    assert says in str(refusal(compiler, grammar.regex, pattern))
    compiler.compile(grammar.regex("a{100000}b"))


def test_choices(compiler: GrammarCompiler) -> None:
    assert refusal(compiler, grammar.choice, []).field == "structured_output.choice"
    error = refusal(compiler, grammar.choice, ["a", ""])
    assert error.field == "structured_output.choice.choices[1]"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no start rule"),
        ("start: foo", 'unknown name: "foo"'),
        ('rule: "a"', "no start rule"),
        ('start: "a', "lexer error"),
        ('start: ""', "only the empty text"),
        ("start: a\na: b\nb: a", "no text matches"),
        ("start: @other", "other"),
        ('start: "a" <|user|> "b"', "<|user|>: tokens"),
        ('start: "a" <[5]>', "<[5]>: tokens"),
        ("start: a\na[temperature=0.5]: /[a-z]+/", "temperature"),
        ('start: a "x"\na[stop="b"]: /[a-z]+/', "stop"),
        ('start: %json {"type": "array", "uniqueItems": true}', "uniqueItems"),
        ('{"grammars": [{"lark_grammar": "start: \\"a\\""}]}', "expecting"),
    ],
)
def test_grammars(compiler: GrammarCompiler, text: str, says: str) -> None:
    error = refusal(compiler, grammar.ebnf, text)
    assert error.field == "structured_output.grammar"
    assert says.lower() in str(error).lower()


def test_what_only_looks_like_a_token_or_option(compiler: GrammarCompiler) -> None:
    text = 'start: "<a> stop=1" B // <b> temperature=2\n# <c>\nB: /<[a-z]+>temperature=/'
    compiler.compile(grammar.ebnf(text))


CHAIN = "start: r0\n" + "\n".join(f"r{i}: r{i + 1} r{i + 1}" for i in range(3000)) + '\nr3000: "x"?'
PATTERNS = {"type": "string", "allOf": [{"pattern": f"a.{{{i}}}b"} for i in range(60)]}


@pytest.mark.parametrize(
    ("make", "argument", "says"),
    [
        (grammar.ebnf, CHAIN, "too deeply nested"),  # overflows a stack
        (schema, PATTERNS, "takes more than"),  # exponential in time and memory
        (grammar.regex, "(" * 30_000 + "a" + ")" * 30_000, "nest"),
        (grammar.regex, r"\w\d\W" * 10_000, "MiB"),
    ],
)
def test_hostile_grammars_end_in_a_refusal(
    compiler: GrammarCompiler, make: Any, argument: Any, says: str
) -> None:
    started = time.process_time()
    error = refusal(compiler, make, argument)
    assert says in str(error)
    assert len(str(error)) < 600
    assert time.process_time() - started < 1, "compiled in this process"
    # The next one finds a process of trials that works.
    compiler.compile(grammar.choice([f"after {time.monotonic_ns()}"]))


def test_a_refusal_is_remembered(compiler: GrammarCompiler) -> None:
    hostile = schema({**PATTERNS, "title": "twice"})
    with pytest.raises(InvalidRequestError, match="takes more than"):
        compiler.compile(hostile)
    started = time.monotonic()
    with pytest.raises(InvalidRequestError, match="takes more than"):
        compiler.find(hostile)
    assert time.monotonic() - started < 0.1
