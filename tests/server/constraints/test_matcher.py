"""Masks: special tokens, padding, ends of sequence; what compiled grammars share; limits."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from server.constraints import grammar, matcher
from server.constraints.compiler import GrammarCompiler
from server.constraints.matcher import CompiledGrammar, Vocabulary
from server.errors import InvalidRequestError, ServerError, UnsupportedError
from tests.server.constraints.conftest import (
    VOCAB_SIZE,
    accepts,
    allowed_ids,
    compile_once,
    draw_text,
)

ANYTHING = grammar.regex(r"(?s:.*)")


def test_only_tokens_of_text_are_allowed(compiler: GrammarCompiler, tokenizer: Any) -> None:
    compiled = compile_once(compiler, ANYTHING)
    first = compiled.matcher().allowed()
    assert len(first) == VOCAB_SIZE // 8
    allowed = set(allowed_ids(first))
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    assert len(special) >= 3
    assert allowed & special == {tokenizer.eos_token_id}
    assert max(allowed) < len(tokenizer), "a padding row"


def test_even_a_grammar_of_any_bytes_allows_no_special_token(
    compiler: GrammarCompiler, tokenizer: Any
) -> None:
    """A negated terminal matches bytes that are no text, such as the library's own markers."""
    compiled = compile_once(compiler, grammar.ebnf("start: T\nT: ~/abc/"))
    allowed = set(allowed_ids(compiled.matcher().allowed()))
    assert allowed & set(tokenizer.all_special_ids) <= {tokenizer.eos_token_id}


def test_text_is_what_the_tokenizer_decodes(compiler: GrammarCompiler, tokenizer: Any) -> None:
    """All tokens of text, one after the other. A byte-fallback decoder drops one leading space."""
    compiled = compile_once(compiler, ANYTHING)
    ids = []
    for token_id in allowed_ids(compiled.matcher().allowed()):
        if token_id != tokenizer.eos_token_id and "\ufffd" not in compiled.decode([token_id]):
            ids.append(token_id)
    assert len(ids) > 150
    anchor = tokenizer.convert_tokens_to_ids("a")
    text = tokenizer.decode([anchor, *ids], clean_up_tokenization_spaces=False)
    assert compiled.decode([anchor, *ids]) == text


def test_a_leading_space_is_part_of_the_text(compiler: GrammarCompiler, tokenizer: Any) -> None:
    compiled = compile_once(compiler, grammar.choice([" the"]))
    assert draw_text(compiled, 0, tokenizer.eos_token_id) == (" the", True)


def test_end_is_allowed_where_the_text_is_whole(compiler: GrammarCompiler, tokenizer: Any) -> None:
    compiled = compile_once(compiler, grammar.regex("ab(cd)?"))
    eos = tokenizer.eos_token_id
    for text, may_end in [("", False), ("a", False), ("ab", True), ("abc", False), ("abcd", True)]:
        assert accepts(compiled, tokenizer, text, eos) == may_end
    state = compiled.matcher()
    for token_id in compiled.vocabulary.tokens.tokenize_str("abcd"):
        assert not state.complete
        state.accept(token_id)
    assert state.complete


@pytest.mark.parametrize("eos", [(), (7, 9), (599, 10_000)])
def test_ends_of_any_base(tokenizer: Any, eos: tuple[int, ...]) -> None:
    """None; several, which are text to the tokenizer; one beyond it, and one beyond the model."""
    vocabulary = Vocabulary(tokenizer, VOCAB_SIZE, eos)
    compiled = CompiledGrammar(vocabulary, grammar.regex("[a-z]{0,2}"))
    state = compiled.matcher()
    inside = {i for i in eos if i < VOCAB_SIZE}
    assert set(allowed_ids(state.allowed())) & {*eos, tokenizer.eos_token_id} == inside
    letter = tokenizer.convert_tokens_to_ids("a")
    state.accept(letter)
    assert not state.complete
    state.accept(letter)
    assert state.complete
    assert set(allowed_ids(state.allowed())) == inside


def test_a_model_smaller_than_its_tokenizer(tokenizer: Any) -> None:
    compiled = CompiledGrammar(Vocabulary(tokenizer, 100, {2}), ANYTHING)
    ids = allowed_ids(compiled.matcher().allowed())
    assert 2 in ids
    assert max(ids) < 100


def test_matchers_are_independent(compiler: GrammarCompiler, tokenizer: Any) -> None:
    compiled = compile_once(compiler, grammar.regex("[a-z]{3}"))
    eos = tokenizer.eos_token_id
    alone = [draw_text(compiled, seed, eos) for seed in range(8)]
    states = [compiled.matcher() for _ in range(3)]
    letter = tokenizer.convert_tokens_to_ids("q")
    for count, state in enumerate(states):
        for _ in range(count):
            state.accept(letter)
    assert [eos in allowed_ids(state.allowed()) for state in states] == [False] * 3
    assert [draw_text(compiled, seed, eos) for seed in range(8)] == alone


def test_compiled_grammars_are_kept(compiler: GrammarCompiler) -> None:
    wanted = grammar.choice(["kept"])
    assert compiler.find(wanted) is None
    compiled = compiler.compile(wanted)
    assert compiler.find(grammar.choice(["kept"])) is compiled
    assert compiler.compile(wanted) is compiled


def test_a_spent_grammar_is_compiled_anew(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = grammar.choice(["spent"])
    compiled = compiler.compile(wanted)
    state = compiled.matcher()
    monkeypatch.setattr(matcher, "_MAX_TOKENS", 0)
    state.accept(allowed_ids(state.allowed())[0])
    assert compiler.find(wanted) is None
    fresh = compiler.compile(wanted)
    assert fresh is not compiled
    assert compiler.find(wanted) is fresh


def test_the_least_recently_used_leave(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from server.constraints import compiler as module

    monkeypatch.setattr(module, "_MAX_ENTRIES", 2)
    compiler = GrammarCompiler(tokenizer, VOCAB_SIZE, {2}, 2.0)
    try:
        first, second, third = (grammar.choice([text]) for text in "abc")
        compiler.compile(first)
        compiler.compile(second)
        assert compiler.find(first) is not None
        compiler.compile(third)
        assert [compiler.find(g) is not None for g in (first, second, third)] == [True, False, True]
    finally:
        compiler.close()


def test_a_grammar_that_costs_the_engine_too_much_fails_alone(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = compile_once(compiler, grammar.regex("[a-z]{5}"))
    other = compiled.matcher()
    state = compiled.matcher()
    monkeypatch.setattr(matcher, "_MAX_S", 0.0)
    monkeypatch.setattr(matcher, "_MAX_S_PER_TOKEN", 0.0)
    with pytest.raises(InvalidRequestError, match="too complex"):
        state.allowed()
    monkeypatch.undo()
    assert other.allowed()


def test_a_grammar_too_complex_to_go_on_fails(compiler: GrammarCompiler) -> None:
    """Many ways to read one text: the library stops at a number of them."""
    compiled = compiler.compile(grammar.ebnf('start: (("a"{1,1000}){1,1000}){1,1000}'))
    state = compiled.matcher()

    def follow() -> None:
        for _ in range(3000):
            state.accept(allowed_ids(state.allowed())[-1])

    with pytest.raises(InvalidRequestError, match=r"^structured_output\.grammar: "):
        follow()
    assert compiled.spent


def test_a_tokenizer_without_bytes_is_refused_by_name() -> None:
    """One that has no bytes, and one that the library panics at."""
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    odd = Tokenizer(models.BPE({"<0xodd": 0, "b": 1}, [], byte_fallback=True))
    odd.decoder = decoders.ByteFallback()
    for core in (words, odd):
        with pytest.raises(UnsupportedError, match="structured_output: the base's tokenizer"):
            Vocabulary(PreTrainedTokenizerFast(tokenizer_object=core), 2, {0})


def test_the_process_of_trials_may_die(compiler: GrammarCompiler) -> None:
    compiler.compile(grammar.choice(["before"]))
    process = compiler._trial._process
    assert process is not None
    process.kill()
    process.wait()
    compiler.compile(grammar.choice(["after"]))


def test_a_closed_compiler_starts_nothing(tokenizer: Any) -> None:
    compiler = GrammarCompiler(tokenizer, VOCAB_SIZE, {2}, 2.0)
    compiler.close()
    with pytest.raises(ServerError, match="cannot be compiled now"):
        compiler.compile(grammar.choice(["late"]))


SERVER = """
import sys, time
from transformers import AutoTokenizer
from server.constraints import grammar
from server.constraints.compiler import GrammarCompiler
compiler = GrammarCompiler(AutoTokenizer.from_pretrained(sys.argv[1]), 600, {2}, 2.0)
compiler.compile(grammar.choice(["x"]))
print(compiler._trial._process.pid, flush=True)
time.sleep(60)
"""


def test_the_process_of_trials_ends_with_the_server(tokenizer: Any, tmp_path: Path) -> None:
    """Even where the server is killed."""
    tokenizer.save_pretrained(tmp_path)
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with server:
        assert server.stdout is not None
        child = Path("/proc", server.stdout.readline().strip(), "stat")
        assert child.exists()
        server.kill()
    deadline = time.monotonic() + 30
    # A process that nobody waits for stays as a zombie, `Z`.
    while child.exists() and child.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)
