"""Tokenizers of the common kinds, and texts drawn at random under a grammar."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from server.constraints.compiler import GrammarCompiler
from server.constraints.grammar import Grammar
from server.constraints.matcher import CompiledGrammar
from tests.tiny import make_tokenizer

# More than either tokenizer has: a model's rows beyond its tokenizer are padding.
VOCAB_SIZE = 600


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2 and Llama 3: the tests' own, with a marker of a conversation beside its end."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("<|user|>", special=True), AddedToken("<think>")])
    return tokenizer


def byte_fallback() -> PreTrainedTokenizerFast:
    """As Llama 2 and Gemma: pieces with a visible space, and bytes for what has no piece."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    pieces += ["▁", *"abcdefghijklmnopqrstuvwxyz0123456789{}[],:.-\"'", "▁t", "▁th", "▁the", "é"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e")]
    core = Tokenizer(
        models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


TOKENIZERS = {"byte_level": byte_level, "byte_fallback": byte_fallback}


@pytest.fixture(scope="session", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer read from files, as the server does."""
    folder: Path = tmp_path_factory.mktemp(request.param)
    TOKENIZERS[request.param]().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def compiler(tokenizer: Any) -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(tokenizer, VOCAB_SIZE, {tokenizer.eos_token_id}, 2.0)
    yield compiler
    compiler.close()


def allowed_ids(bits: bytes) -> list[int]:
    return np.flatnonzero(np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")).tolist()


def draw_text(
    compiled: CompiledGrammar, seed: int, eos: int, max_tokens: int = 400
) -> tuple[str, bool]:
    """A text whose tokens are drawn at random among those allowed, and whether it ended."""
    chance = random.Random(seed)
    matcher = compiled.matcher()
    token_ids: list[int] = []
    while not matcher.complete and len(token_ids) < max_tokens:
        ids = allowed_ids(matcher.allowed())
        # Seldom longer than need be: random brackets rarely close by themselves.
        token_id = eos if eos in ids and chance.random() < 0.5 else chance.choice(ids)
        if token_id == eos:
            return compiled.decode(token_ids), True
        matcher.accept(token_id)
        token_ids.append(token_id)
    return compiled.decode(token_ids), matcher.complete


def accepts(compiled: CompiledGrammar, tokenizer: Any, text: str, eos: int) -> bool:
    """Whether the text, token by token, is allowed and may end there."""
    matcher = compiled.matcher()
    for token_id in compiled.vocabulary.tokens.tokenize_str(text):
        if token_id not in allowed_ids(matcher.allowed()):
            return False
        matcher.accept(token_id)
    return eos in allowed_ids(matcher.allowed())


def compile_once(compiler: GrammarCompiler, grammar: Grammar) -> CompiledGrammar:
    return compiler.find(grammar) or compiler.compile(grammar)
