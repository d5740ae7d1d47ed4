"""Constrained generations in the engine: masks in the draw, endings, batches, preemption."""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from server.constraints import grammar
from server.constraints.compiler import GrammarCompiler
from server.engine.logits_processors import Draw
from server.engine.sampler import draw
from server.errors import InvalidRequestError
from server.models.loader import LoadedBase
from server.types import Constraint, FinishReason, SamplingParams
from tests.server.engine.harness import Driver, HeldAdapter, Inbox

_PROMPT = tuple(range(40, 63))
_SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "integer", "minimum": 0, "maximum": 9999},
        "ok": {"type": "boolean"},
        "tags": {"type": "array", "items": {"enum": ["x", "yy", "zzz"]}, "maxItems": 2},
    },
    "required": ["id", "ok", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def compiler(loaded: LoadedBase) -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(
        loaded.tokenizer, loaded.info.vocab_size, loaded.eos_token_ids, max_compile_s=2.0
    )
    yield compiler
    compiler.close()


@pytest.fixture(scope="module")
def constraints(compiler: GrammarCompiler) -> dict[str, Constraint]:
    return {
        "json": compiler.compile(grammar.json_schema(json.dumps(_SCHEMA))),
        "regex": compiler.compile(grammar.regex("[a-f]{4,9}(, [0-9]{2})?")),
        "choice": compiler.compile(grammar.choice(["red", "green", "blue-green", "re"])),
        "grammar": compiler.compile(grammar.ebnf('start: "(" start ")" | "x" | start "+" start')),
    }


def check(name: str, text: str) -> None:
    """Raises AssertionError unless the text is what its constraint says."""
    if name == "json":
        value = json.loads(text)
        assert list(value) == ["id", "ok", "tags"]
        assert type(value["id"]) is int
        assert 0 <= value["id"] <= 9999
        assert type(value["ok"]) is bool
        assert len(value["tags"]) <= 2
        assert set(value["tags"]) <= {"x", "yy", "zzz"}
    elif name == "regex":
        assert re.fullmatch("[a-f]{4,9}(, [0-9]{2})?", text)
    elif name == "choice":
        assert text in ("red", "green", "blue-green", "re")
    else:
        assert text.count("(") == text.count(")")
        assert re.fullmatch(r"[(]*x[)]*([+][(]*x[)]*)*", text)


def add(driver: Driver, constraint: Constraint, *args: Any, **options: Any) -> Inbox:
    options = {"max_tokens": 120, "ignore_eos": False, **options}
    return driver.add(_PROMPT, *args, constraint=constraint, **options)


@pytest.mark.parametrize("name", ["json", "regex", "choice", "grammar"])
@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
def test_texts_follow_their_grammar(
    name: str, temperature: float, loaded: LoadedBase, constraints: dict[str, Constraint]
) -> None:
    driver = Driver(loaded)
    inboxes = [
        add(driver, constraints[name], temperature=temperature, seed=seed) for seed in range(12)
    ]
    driver.run()
    endings = []
    for inbox in inboxes:
        sample = inbox.finished
        endings.append(sample.reason)
        if sample.reason is FinishReason.EOS:
            check(name, sample.text)
        else:
            assert sample.reason is FinishReason.LENGTH
            assert len(sample.token_ids) == 120
    if name != "grammar":
        assert set(endings) == {FinishReason.EOS}


def test_alone_and_in_a_mixture_the_same(
    loaded: LoadedBase, constraints: dict[str, Constraint], held: dict[str, HeldAdapter]
) -> None:
    """With preemption, samples, adapters and unconstrained neighbours. A matcher that were told a
    token twice, or a neighbour's, would fail or end elsewhere."""
    chance = random.Random(3)
    wanted: list[dict[str, Any]] = []
    for index in range(15):
        name = [*constraints, None][index % 5]
        adapter = held[chance.choice(["narrow", "prompt"])] if chance.random() < 0.5 else None
        options: dict[str, Any] = {
            "temperature": chance.choice([0.0, 1.3]),
            "seed": index,
            "repetition_penalty": chance.choice([1.0, 1.2]),
            "num_samples": chance.choice([1, 1, 2]),
            "max_tokens": 40,
            "num_logprobs": chance.choice([None, 1]),
        }
        wanted.append({"adapter": adapter, "constraint": name and constraints[name], **options})

    def submit(driver: Driver, options: dict[str, Any]) -> Inbox:
        return driver.add(_PROMPT, options.pop("adapter"), ignore_eos=False, **options)

    alone = []
    for options in wanted:
        driver = Driver(loaded, deterministic=True)
        inbox = submit(driver, dict(options))
        driver.run()
        alone.append(inbox.answer.samples)
    driver = Driver(loaded, deterministic=True, block_size=4, num_blocks=40, max_step_tokens=24)
    inboxes = [submit(driver, dict(options)) for options in wanted]
    driver.run()
    assert [inbox.answer.samples for inbox in inboxes] == alone
    assert driver.metrics.num_preempted > 0
    for options, samples in zip(wanted, alone, strict=True):
        for name, constraint in constraints.items():
            if options["constraint"] is constraint:
                for sample in samples:
                    if sample.reason is FinishReason.EOS:
                        check(name, sample.text)


def test_max_tokens_cuts(loaded: LoadedBase, constraints: dict[str, Constraint]) -> None:
    driver = Driver(loaded)
    inbox = add(driver, constraints["json"], max_tokens=5)
    driver.run()
    assert inbox.finished.reason is FinishReason.LENGTH
    with pytest.raises(json.JSONDecodeError):
        json.loads(inbox.finished.text)


def test_a_whole_text_ends_at_once(loaded: LoadedBase, constraints: dict[str, Constraint]) -> None:
    """Without an end of sequence among its tokens, and as EOS also where max_tokens is reached."""
    driver = Driver(loaded)
    bias = tuple((i, 50.0) for i in loaded.tokenizer.encode("blue"))
    free = add(driver, constraints["choice"], logit_bias=bias)
    driver.run()
    assert free.finished.text == "blue-green"
    assert not set(free.finished.token_ids) & loaded.eos_token_ids
    exact = add(
        driver, constraints["choice"], logit_bias=bias, max_tokens=len(free.finished.token_ids)
    )
    driver.run()
    assert exact.finished.text == "blue-green"
    assert exact.finished.reason is FinishReason.EOS


def test_the_model_chooses_where_a_text_may_end(
    loaded: LoadedBase, constraints: dict[str, Constraint]
) -> None:
    """`re` may end or go on to `red`."""
    (eos,) = loaded.eos_token_ids
    driver = Driver(loaded)
    r = [(i, 40.0) for i in loaded.tokenizer.encode("re")]
    ends = add(driver, constraints["choice"], logit_bias=(*r, (eos, 80.0)))
    goes_on = add(driver, constraints["choice"], logit_bias=(*r, (eos, -80.0)))
    driver.run()
    assert ends.finished.text == "re"
    assert ends.finished.token_ids[-1] == eos
    assert ends.finished.reason is FinishReason.EOS
    assert goes_on.finished.text == "red"


def test_a_base_without_an_end(tiny: Any, loaded: LoadedBase) -> None:
    endless = replace(loaded, eos_token_ids=frozenset())
    compiler = GrammarCompiler(loaded.tokenizer, loaded.info.vocab_size, frozenset(), 2.0)
    try:
        driver = Driver(endless)
        whole = add(driver, compiler.compile(grammar.json_schema(json.dumps(_SCHEMA))))
        closed = add(driver, compiler.compile(grammar.regex("[a-z]{2,6}")))
        open_ended = add(driver, compiler.compile(grammar.regex("[a-z]+")), max_tokens=9)
        driver.run()
        check("json", whole.finished.text)
        # Nobody can say that it ends before it must.
        assert re.fullmatch("[a-z]{6}", closed.finished.text)
        assert closed.finished.reason is FinishReason.EOS
        assert open_ended.finished.reason is FinishReason.LENGTH
        assert re.fullmatch("[a-z]{9,}", open_ended.finished.text)
    finally:
        compiler.close()


def test_bias_and_penalties_choose_among_what_is_allowed(
    loaded: LoadedBase, constraints: dict[str, Constraint]
) -> None:
    driver = Driver(loaded)
    (g,) = loaded.tokenizer.encode("g")
    (q,) = loaded.tokenizer.encode("q")
    biased = add(driver, constraints["choice"], logit_bias=((g, 100.0), (q, 1e30)))
    driver.run()
    assert biased.finished.text == "green"


def test_logprobs_are_the_models_own(
    loaded: LoadedBase, constraints: dict[str, Constraint]
) -> None:
    """Before the mask: the likeliest token may well be one that is not allowed."""
    driver = Driver(loaded)
    free = driver.add(_PROMPT, max_tokens=1, num_logprobs=1)
    bound = add(driver, constraints["choice"], num_logprobs=1)
    driver.run()
    assert bound.finished.logprobs[0].top == free.finished.logprobs[0].top
    assert bound.finished.logprobs[0].token_id != free.finished.token_ids[0]
    assert bound.finished.logprobs[0].logprob < free.finished.logprobs[0].logprob


def test_a_grammar_that_fails_harms_nobody_else(
    loaded: LoadedBase, compiler: GrammarCompiler, constraints: dict[str, Constraint]
) -> None:
    """In the first step, and later; beside others of the same grammar, and of others."""
    driver = Driver(loaded)
    ambiguous = compiler.compile(grammar.ebnf('start: (("a"{1,1000}){1,1000}){1,1000}'))
    failing = add(driver, ambiguous, max_tokens=1000, num_samples=3, logit_bias=((0, -100.0),))
    fine = [add(driver, constraint) for constraint in constraints.values()]
    driver.run()
    assert isinstance(failing.error, InvalidRequestError)
    assert failing.error.field == "structured_output.grammar"
    assert all(inbox.finished.text for inbox in fine)
    assert driver.metrics.ended.count(("base", "error")) == 1


def test_masked_draws_equal_draws_from_masked_logits() -> None:
    """The plain form: minus infinity where the bit is 0, nothing else changed."""
    torch.manual_seed(0)
    size = 1001
    logits = torch.randn(6, size)
    generator = random.Random(0)
    draws, plain = [], logits.clone()
    for row in range(6):
        bits = None
        if row != 2:
            allowed = generator.sample(range(size), 17)
            packed = bytearray(-(-size // 8))
            for token_id in allowed:
                packed[token_id // 8] |= 1 << token_id % 8
            bits = bytes(packed)
            forbidden = torch.ones(size, dtype=torch.bool)
            forbidden[allowed] = False
            plain[row, forbidden] = float("-inf")
        params = SamplingParams(temperature=float(row % 2), top_p=0.9, seed=row)
        draws.append(Draw(params, 3, allowed=bits))
    expected = draw(plain, [replace(item, allowed=None) for item in draws])
    assert draw(logits, draws) == expected
    assert torch.equal(logits, plain)
