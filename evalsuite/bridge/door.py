"""Scores, texts and tokens from one adapter, many requests under way at a time.

Errors of every method: RequestRefused where a request is at fault, ServerError where the server is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TypeVar

from evalsuite.errors import InputError
from evalsuite.generator import translated
from understudy import (
    Client,
    ContinuationScore,
    GenerateRequest,
    Input,
    Message,
    RawPrompt,
    RetryPolicy,
    TokenIds,
    TokenizeResult,
)
from understudy.artifact import BASE_NAME

A = TypeVar("A")
B = TypeVar("B")

# As the fleet does: long for a request that waits behind all others, some 20 s for a server that
# restarts, and soon to say that there is none.
_TIMEOUT_S = 900.0
_RETRY = RetryPolicy(max_attempts=12)
_FIRST_TIMEOUT_S = 5.0

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """A context and what follows it, as token ids; neither is empty."""

    context: Ids
    continuation: Ids


class Door:
    """The base or one adapter of a server, pinned to the version its name means at the start."""

    def __init__(self, address: str, adapter: str = BASE_NAME, concurrency: int | None = None):
        """Connects to `HOST:PORT` and asks what it holds.

        `adapter` is `base`, `name`, `name@version` or `name@alias`. `concurrency` is the most
        requests under way, None: twice the server's batch. Raises InputError and ServerError.
        """
        self.address = address
        with translated(address):
            self._client = Client(address, timeout=_TIMEOUT_S, retry=_RETRY)
            self.model = self._client.model_info(timeout=_FIRST_TIMEOUT_S)
            self.adapter, num_virtual_tokens = "", 0
            if adapter not in ("", BASE_NAME):
                found = self._client.adapters.get(adapter).adapter
                self.adapter = f"{found.name}@{found.version}"
                num_virtual_tokens = found.num_virtual_tokens
        self.max_tokens = self.model.max_context_tokens - num_virtual_tokens
        """The context without the adapter's virtual tokens: positions a request may fill."""
        self.concurrency = 2 * self.model.max_batch_size if concurrency is None else concurrency
        if self.concurrency < 1:
            raise InputError(f"concurrency: {self.concurrency} is not at least 1")
        self.special_tokens = self._special_tokens()
        self.special_text = ""
        if self.special_tokens:
            self.special_text = "".join(self._tokenize(TokenIds(self.special_tokens)).tokens)

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The tokens of each verbatim text, behind `special_tokens`; of "" those alone.

        A text that begins with them itself, as chat templates write them, gets them once.
        """
        asked = [index for index, text in enumerate(texts) if text]
        found = [self.special_tokens] * len(texts)
        prompts = [RawPrompt(texts[index].removeprefix(self.special_text)) for index in asked]
        for number, result in self._each(self._tokenize, prompts):
            found[asked[number]] = result.token_ids
        return found

    def render(self, text: str | Sequence[Mapping[str, str]]) -> str:
        """The prompt of a text or of a conversation's messages (`role` and `content`).

        By the adapter's template; conversations with the base by its chat template.
        """
        if isinstance(text, str):
            return self._tokenize(text).prompt
        return self._tokenize([Message(turn["role"], turn["content"]) for turn in text]).prompt

    def render_all(self, texts: Sequence[str]) -> list[str]:
        """The prompt of each text."""
        found = dict(self._each(self.render, texts))
        return [found[index] for index in range(len(texts))]

    def score(self, pairs: Sequence[Pair]) -> Iterator[tuple[int, ContinuationScore]]:
        """Each pair's score with its index, as they come. Neighbours share a context's request."""
        groups: list[list[int]] = []
        for index, pair in enumerate(pairs):
            if groups and pairs[groups[-1][0]].context == pair.context and len(groups[-1]) < 64:
                groups[-1].append(index)
            else:
                groups.append([index])

        def ask(group: list[int]) -> Sequence[ContinuationScore]:
            context = TokenIds(pairs[group[0]].context)
            continuations = [TokenIds(pairs[index].continuation) for index in group]
            with translated(self.address):
                return self._client.score(context, continuations, adapter=self.adapter).scores

        for number, scores in self._each(ask, groups):
            yield from zip(groups[number], scores, strict=True)

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, str]]:
        """Each request's text with its index, as they come."""

        def ask(request: GenerateRequest) -> str:
            with translated(self.address):
                return self._client.generate(request).text

        return self._each(ask, requests)

    def _tokenize(self, given: Input) -> TokenizeResult:
        with translated(self.address):
            return self._client.tokenize(given, adapter=self.adapter)

    def _special_tokens(self) -> Ids:
        """What the tokenizer puts in front of every text.

        Raises InputError if it puts something behind, where a continuation has to follow.
        """
        ids = self._tokenize(RawPrompt("a")).token_ids
        if ids[-1] == self.model.eos_token_id:
            raise InputError(
                f"{self.address}: the base's tokenizer ends every text with token {ids[-1]}, so "
                "nothing can be scored behind one"
            )
        return ids[:1] if ids[0] == self.model.bos_token_id else ()

    def _each(self, call: Callable[[A], B], items: Sequence[A]) -> Iterator[tuple[int, B]]:
        """`call` of each item with its index, as they finish; what is left ends with the first
        error, and when the caller stops to listen."""
        pool = ThreadPoolExecutor(min(self.concurrency, max(1, len(items))))
        futures = {pool.submit(call, item): index for index, item in enumerate(items)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)
