"""Texts drawn at random under a grammar: they always are what was asked for."""

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.constraints import grammar
from server.constraints.compiler import GrammarCompiler
from tests.server.constraints.conftest import accepts, compile_once, draw_text

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "score": {"type": "number", "exclusiveMinimum": -1, "maximum": 2.5},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "é"]}, "maxItems": 3},
        "kind": {"const": {"x": [1, None]}},
        "code": {"type": "string", "pattern": "^[A-Z]{2}-\\d{3}$"},
        "child": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/child"}]},
    },
    "required": ["name", "age", "tags", "kind", "code", "child"],
    "additionalProperties": False,
    "$defs": {
        "child": {
            "type": "object",
            "properties": {"id": {"type": "integer", "multipleOf": 5}},
            "required": ["id"],
            "additionalProperties": {"type": "boolean"},
        }
    },
}


def check_person(person: Any) -> None:
    """By hand what PERSON says."""
    assert isinstance(person, dict)
    required = {"name", "age", "tags", "kind", "code", "child"}
    assert required <= set(person) <= required | {"score"}
    assert isinstance(person["name"], str)
    assert 1 <= len(person["name"]) <= 8
    assert type(person["age"]) is int
    assert 0 <= person["age"] <= 150
    if "score" in person:
        assert type(person["score"]) in (int, float)
        assert -1 < person["score"] <= 2.5
    assert len(person["tags"]) <= 3
    assert set(person["tags"]) <= {"a", "b", "é"}
    assert person["kind"] == {"x": [1, None]}
    assert re.fullmatch(r"[A-Z]{2}-\d{3}", person["code"])
    child = person["child"]
    if child is not None:
        assert type(child["id"]) is int
        assert child["id"] % 5 == 0
        assert all(type(value) is bool for key, value in child.items() if key != "id")


def test_json_is_valid(compiler: GrammarCompiler, tokenizer: Any) -> None:
    compiled = compile_once(compiler, grammar.json_schema(json.dumps(PERSON)))
    whole = 0
    for seed in range(40):
        text, ended = draw_text(compiled, seed, tokenizer.eos_token_id)
        if ended:
            whole += 1
            check_person(json.loads(text))
    assert whole >= 25


@pytest.mark.parametrize("schema", [True, {}, {"type": "object"}, {"type": ["array", "string"]}])
def test_any_json_parses(compiler: GrammarCompiler, tokenizer: Any, schema: Any) -> None:
    compiled = compile_once(compiler, grammar.json_schema(json.dumps(schema)))
    texts = [draw_text(compiled, seed, tokenizer.eos_token_id) for seed in range(30)]
    whole = [json.loads(text) for text, ended in texts if ended]
    assert len(whole) >= 5
    if isinstance(schema, dict) and schema.get("type") == "object":
        assert all(isinstance(value, dict) for value in whole)


@pytest.mark.parametrize(
    "pattern",
    [
        r"[A-Z][a-z]{2,12} [0-9]{4}-[0-9]{2}(, [a-z ]{0,30})?",
        r"a|b+|(?:cd){2,3}",
        r" the end",
        r"(yes|no)\.?\n?",
        r"[^a-z]{1,5}",
        r".{3}",
        r"/[a-z]+/\"[0-9]\"",
        r"\d{1,3}(,\d{3})*",
        r"(?i)true|false",
        r"a?",
    ],
)
def test_regex_matches_the_whole_text(
    compiler: GrammarCompiler, tokenizer: Any, pattern: str
) -> None:
    compiled = compile_once(compiler, grammar.regex(pattern))
    texts = [draw_text(compiled, seed, tokenizer.eos_token_id) for seed in range(20)]
    whole = [text for text, ended in texts if ended]
    assert len(whole) >= 18
    for text in whole:
        assert re.fullmatch(pattern, text), text


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(TEXTS, min_size=1, max_size=6))
def test_choice_is_one_of_the_strings(
    compiler: GrammarCompiler, tokenizer: Any, choices: list[str]
) -> None:
    compiled = compile_once(compiler, grammar.choice(choices))
    for seed in range(5):
        text, ended = draw_text(compiled, seed, tokenizer.eos_token_id)
        assert ended
        assert text in choices
    for text in choices:
        assert accepts(compiled, tokenizer, text, tokenizer.eos_token_id)
        assert accepts(compiled, tokenizer, text + "x", tokenizer.eos_token_id) == (
            text + "x" in choices
        )


ARITHMETIC = r"""
start: sum   // an example
sum: product (("+" | "-") product)*
product: value ("*" value)*
value: NUMBER | "(" sum ")"
NUMBER: /[0-9]{1,2}/
"""


def test_grammar_is_derived(compiler: GrammarCompiler, tokenizer: Any) -> None:
    compiled = compile_once(compiler, grammar.ebnf(ARITHMETIC))
    whole = 0
    for seed in range(30):
        text, ended = draw_text(compiled, seed, tokenizer.eos_token_id)
        if ended:
            whole += 1
            assert re.fullmatch(r"[0-9+*()-]+", text)
            # Leading zeros are the only thing that Python reads differently.
            eval(re.sub(r"\b0+(?=\d)", "", text), {"__builtins__": {}})
    assert whole >= 20


def test_property_order_is_the_schemas(compiler: GrammarCompiler, tokenizer: Any) -> None:
    schema = {
        "properties": {"z": {"const": 1}, "a": {"const": 2}},
        "required": ["a", "z"],
        "additionalProperties": False,
        "type": "object",
    }
    compiled = compile_once(compiler, grammar.json_schema(json.dumps(schema)))
    eos = tokenizer.eos_token_id
    assert accepts(compiled, tokenizer, '{"z": 1, "a": 2}', eos)
    assert accepts(compiled, tokenizer, '{\n  "z": 1,\n  "a": 2\n}', eos)
    assert not accepts(compiled, tokenizer, '{"a": 2, "z": 1}', eos)


@pytest.mark.parametrize(
    "text",
    [
        '{"\\u0061": "x"}',  # an escaped `a` is still `a`, which must be an integer
        '{"a": 1}' + " " * 3,
        '{"a":   1}',
        '{"a": 1, "a": 2}',
        '{"b": "\\u0020"}',
    ],
)
def test_what_json_could_smuggle_in(compiler: GrammarCompiler, tokenizer: Any, text: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    compiled = compile_once(compiler, grammar.json_schema(json.dumps(schema)))
    assert not accepts(compiled, tokenizer, text, tokenizer.eos_token_id)
