"""Compiles grammars, each tried first, and keeps them for the next request that asks."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from server.constraints.grammar import FIELD, Grammar
from server.constraints.matcher import CompiledGrammar, Vocabulary, readable
from server.constraints.trial import Trial, TrialError
from server.errors import InvalidRequestError, ServerError

_LOG = logging.getLogger(__name__)

# What one grammar may take, and all that are kept.
_MAX_GRAMMAR_BYTES = 128 << 20
_MAX_BYTES = 256 << 20
# Refusals are kept, too: asked again, they cost nothing.
_MAX_ENTRIES = 512


@dataclass(slots=True)
class _Entry:
    """A compiled grammar, or why it is refused."""

    compiled: CompiledGrammar | None
    error: str
    num_bytes: int

    def get(self, field: str) -> CompiledGrammar:
        if self.compiled is None:
            raise InvalidRequestError(field, self.error)
        return self.compiled


class GrammarCompiler:
    """Makes `server.types.Constraint`s for one base. Every method is safe from any thread."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        vocab_size: int,
        eos_token_ids: Collection[int],
        max_compile_s: float,
    ) -> None:
        """Reads the tokenizer with the first grammar. `max_compile_s` bounds the processor
        time of a compilation."""
        self._base = (tokenizer, vocab_size, eos_token_ids)
        self._max_compile_s = max_compile_s
        self._vocabulary: Vocabulary | None = None
        self._trial = Trial()
        # Guards the two above: one grammar is compiled at a time.
        self._compiling = threading.Lock()
        self._entries: OrderedDict[Grammar, _Entry] = OrderedDict()
        # Guards the entries.
        self._changed = threading.Lock()

    def find(self, grammar: Grammar) -> CompiledGrammar | None:
        """The compiled grammar, None if it must be compiled. Raises InvalidRequestError if it is
        known to be refused."""
        with self._changed:
            entry = self._entries.get(grammar)
            if entry is None or (entry.compiled is not None and entry.compiled.spent):
                return None
            self._entries.move_to_end(grammar)
        return entry.get(grammar.field)

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Compiles a grammar; takes seconds at worst. Raises InvalidRequestError,
        UnsupportedError."""
        with self._compiling:
            found = self.find(grammar)
            if found is not None:
                return found
            entry = self._compile(grammar)
            with self._changed:
                self._entries[grammar] = entry
                self._entries.move_to_end(grammar)
                while self._is_full():
                    self._entries.popitem(last=False)
        return entry.get(grammar.field)

    def close(self) -> None:
        """Ends the process of trials; what is compiled now fails."""
        self._trial.close()

    def _is_full(self) -> bool:
        num_bytes = sum(entry.num_bytes for entry in self._entries.values())
        return len(self._entries) > 1 and (
            num_bytes > _MAX_BYTES or len(self._entries) > _MAX_ENTRIES
        )

    def _compile(self, grammar: Grammar) -> _Entry:
        if self._vocabulary is None:
            self._vocabulary = Vocabulary(*self._base)
        with self._changed:
            spent = self._entries.get(grammar)
        if spent is not None:
            # Tried already.
            return _Entry(CompiledGrammar(self._vocabulary, grammar), "", spent.num_bytes)
        try:
            verdict = self._trial.run(
                self._vocabulary.trial_settings(),
                grammar.text,
                seconds=self._max_compile_s,
                num_bytes=_MAX_GRAMMAR_BYTES,
            )
        except TrialError as error:
            _LOG.error("grammars cannot be tried: %s", error)
            raise ServerError(f"{FIELD}: grammars cannot be compiled now") from error
        num_bytes = len(grammar.text) + verdict.memory_bytes
        if verdict.error:
            return _Entry(None, readable(verdict.error), num_bytes)
        return _Entry(CompiledGrammar(self._vocabulary, grammar), "", num_bytes)
