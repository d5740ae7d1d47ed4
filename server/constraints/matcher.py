"""Compiled grammars and their state in one generation, on top of llguidance."""

import re
import time
from collections.abc import Collection
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from server.constraints.grammar import FIELD, Grammar
from server.errors import InvalidRequestError, UnsupportedError

# Half of llguidance's own limits and less, since a step computes the masks of all its rows: no
# ordinary grammar comes near them. A state takes about 250 bytes.
LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 50_000,
    "step_max_items": 20_000,
    "max_items_in_row": 2_000,
    "max_lexer_states": 100_000,
    "max_grammar_size": 500_000,
    "verbose_errors": False,
}
# Processor time that one generation's grammar may take of the engine: all others wait meanwhile.
# An ordinary grammar takes a few hundredths of a millisecond per token.
_MAX_S, _MAX_S_PER_TOKEN = 0.5, 0.005
# Tokens after which a compiled grammar is compiled anew for later requests: its matchers share
# the states of one lexer, which only grow, and whose number is bounded.
_MAX_TOKENS = 16_384

# An end of sequence of ours: bases may have none, several, or one that the tokenizer lacks.
_END = "<|end of structured output|>"

# The reason comes last, behind a quotation of the whole.
_REGEX_ERROR = re.compile(r"regex parse error:.*\nerror: ([^\n]+)", re.DOTALL)


class Vocabulary:
    """The tokens of a base, as bytes of text."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        eos_token_ids: Collection[int],
    ) -> None:
        """`vocab_size` is the model's, which may exceed the tokenizer's. Raises UnsupportedError
        for a tokenizer whose tokens are not bytes of text."""
        try:
            own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
            own.no_padding()
            own.no_truncation()
            own.add_special_tokens([AddedToken(_END, special=True)])
            end = own.token_to_id(_END)
            assert end is not None, "just added"
            self.end = end
            self.num_tokens = max(vocab_size, self.end + 1)
            self.tokenizer_json = own.to_str()
            self.tokens = LLTokenizer(
                self.tokenizer_json, n_vocab=self.num_tokens, eos_token=self.end
            )
        except BaseException as error:
            # Not only Exception: a panic in the library's Rust is none.
            raise UnsupportedError(
                f"{FIELD}: the base's tokenizer is not of a kind that is supported: {error}"
            ) from error
        self.num_bytes = -(-vocab_size // 8)
        ordinary = np.array(
            [not self.tokens.is_special_token(i) for i in range(vocab_size)], dtype=np.bool_
        )
        is_eos = np.zeros(vocab_size, dtype=np.bool_)
        is_eos[[i for i in eos_token_ids if i < vocab_size]] = True
        self.text = np.packbits(ordinary & ~is_eos, bitorder="little")
        """Packed bits [num_bytes]: tokens of text, neither special nor padding."""
        self.eos = np.packbits(is_eos, bitorder="little")
        """Packed bits [num_bytes]: the base's ends of sequence."""

    def decode(self, token_ids: list[int]) -> str:
        """The text that a grammar sees in these tokens of text."""
        return self.tokens.decode_bytes(token_ids).decode("utf-8", errors="replace")

    def trial_settings(self) -> dict[str, Any]:
        """What the process of trials needs to know."""
        return {
            "tokenizer": self.tokenizer_json,
            "num_tokens": self.num_tokens,
            "eos_token": self.end,
            "limits": LIMITS,
        }


class CompiledGrammar:
    """A `server.types.Constraint`: a grammar ready to be followed, by many requests at a time."""

    def __init__(self, vocabulary: Vocabulary, grammar: Grammar) -> None:
        """Compiles it, within LIMITS. Raises InvalidRequestError."""
        self.vocabulary = vocabulary
        self.field = grammar.field
        self._start = LLMatcher(
            vocabulary.tokens, grammar.text, log_level=0, limits=LLParserLimits(**LIMITS)
        )
        if self._start.is_error():
            raise InvalidRequestError(self.field, readable(self._start.get_error()))
        self.num_tokens = 0
        """Tokens that its matchers took."""
        self.failed = False

    @property
    def spent(self) -> bool:
        """Whether later requests should compile it anew."""
        return self.failed or self.num_tokens > _MAX_TOKENS

    def matcher(self) -> "GrammarMatcher":
        """The state of a new generation."""
        return GrammarMatcher(self, self._start.deep_copy())

    def decode(self, token_ids: list[int]) -> str:
        """The text that the grammar sees in these tokens of text."""
        return self.vocabulary.decode(token_ids)


class GrammarMatcher:
    """A `server.types.TokenMatcher`: where one generation is in its grammar. For one thread."""

    def __init__(self, grammar: CompiledGrammar, matcher: LLMatcher) -> None:
        self._grammar = grammar
        self._matcher = matcher
        self._seconds = 0.0
        self._num_tokens = 0
        self._allowed: bytes | None = None
        self._complete = False

    @property
    def complete(self) -> bool:
        """Whether the text is whole and no token of text can follow. Raises as `allowed`."""
        self.allowed()
        return self._complete

    def allowed(self) -> bytes:
        """Which tokens may be next: bit i of byte j is token 8 j + i. With the base's ends of
        sequence, where the text may end here. Raises InvalidRequestError where the grammar has
        become too complex or no token can follow."""
        if self._allowed is None:
            started = time.thread_time()
            mask = self._matcher.compute_bitmask()
            self._took(started)
            words = self._grammar.vocabulary
            may_end = bool(mask[words.end >> 3] >> (words.end & 7) & 1)
            bits = np.frombuffer(mask, np.uint8, words.num_bytes) & words.text
            self._complete = not bits.any()
            if may_end:
                bits |= words.eos
            elif self._complete:
                raise InvalidRequestError(self._grammar.field, "no token of the base can follow")
            self._allowed = bits.tobytes()
        return self._allowed

    def accept(self, token_id: int) -> None:
        """Takes the next token of text, one that `allowed` has. Raises as `allowed`."""
        started = time.thread_time()
        self._matcher.consume_token(token_id)
        self._allowed = None
        self._num_tokens += 1
        self._grammar.num_tokens += 1
        self._took(started)

    def _took(self, started: float) -> None:
        """Notes the time since `started`; raises if it is too much, or the library failed."""
        self._seconds += time.thread_time() - started
        field = self._grammar.field
        if self._matcher.is_error():
            self._grammar.failed = True
            raise InvalidRequestError(field, readable(self._matcher.get_error()))
        if self._seconds > _MAX_S + _MAX_S_PER_TOKEN * self._num_tokens:
            raise InvalidRequestError(
                field,
                f"is too complex: it took {self._seconds:.1f} s for {self._num_tokens} tokens",
            )


def readable(error: str) -> str:
    """One line of the library's message for the client."""
    if error.startswith("panic"):
        return "is too large"
    if error.startswith("NoExtension"):
        return "no text matches"
    if reason := _REGEX_ERROR.search(error):
        return f"invalid regular expression: {reason[1]}"
    line = " ".join(error.partition("<non-verbose/>")[0].split())
    return line[:500]
