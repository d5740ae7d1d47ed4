"""Bits per byte of documents, each alone behind the token that begins a text.

What ends a document is not counted, so that bases with and without such a token compare. A document
longer than the context is read in windows that overlap by half: behind the first window, each token
has at least half a context in front.
"""

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from demo.card.held import CardError, Document, encode
from demo.card.kneser_ney import KneserNey
from understudy import AsyncClient, TokenIds

IN_FLIGHT = 32
TIMEOUT_S = 600.0

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Window:
    """A stretch of a document's tokens: some are given, the others scored."""

    given: Sequence[int]
    scored: Sequence[int]


@dataclass(frozen=True)
class Measured:
    """A document's negative log-likelihood."""

    nats: float
    num_tokens: int
    """Scored: all but the first."""


def windows(ids: Sequence[int], context: int) -> Iterator[Window]:
    """Windows of at most `context` tokens that score every id but the first exactly once."""
    begin, done = 0, 1
    while done < len(ids):
        end = min(begin + context, len(ids))
        yield Window(ids[begin:done], ids[done:end])
        begin, done = end - context // 2, end


def exact_ids(tokenizer: Tokenizer, document: Document) -> list[int]:
    """The ids of a document. Raises CardError where they do not decode to its very bytes."""
    ids = encode(tokenizer, document.text)
    if tokenizer.decode(ids[1:], skip_special_tokens=False) != document.text:
        raise CardError(
            f"a document of {document.source!r} does not decode to its bytes: "
            f"{document.text[:60]!r}"
        )
    return ids


def by_server(
    address: str, tokenizer: Tokenizer, documents: Sequence[Document], progress: Progress
) -> list[Measured]:
    """What a server's bare base says of the documents. `tokenizer` is the base's own."""
    return asyncio.run(_by_server(address, tokenizer, documents, progress))


async def _by_server(
    address: str, tokenizer: Tokenizer, documents: Sequence[Document], progress: Progress
) -> list[Measured]:
    encoded = [exact_ids(tokenizer, document) for document in documents]
    num_tokens = sum(len(ids) - 1 for ids in encoded)
    num_done = 0
    free = asyncio.Semaphore(IN_FLIGHT)
    async with AsyncClient(address, timeout=TIMEOUT_S) as client:
        context = (await client.model_info()).max_context_tokens

        async def measure(ids: list[int]) -> Measured:
            nonlocal num_done
            nats = 0.0
            for window in windows(ids, context):
                async with free:
                    result = await client.score(TokenIds(window.given), [TokenIds(window.scored)])
                nats -= result.scores[0].logprob
            num_done += len(ids) - 1
            progress(f"{num_done:,} of {num_tokens:,} tokens")
            return Measured(nats, len(ids) - 1)

        return list(await asyncio.gather(*(measure(ids) for ids in encoded)))


def by_ngrams(
    model: KneserNey, tokenizer: Tokenizer, documents: Sequence[Document]
) -> list[Measured]:
    """What an n-gram model over the same tokens says of the documents."""
    found = []
    for document in documents:
        ids = exact_ids(tokenizer, document)
        nats = -sum(math.log(p) for p in model.probabilities(ids))
        found.append(Measured(nats, len(ids) - 1))
    return found


def by_source(documents: Sequence[Document], measured: Sequence[Measured]) -> dict[str, Any]:
    """Documents, bytes, tokens and bits per byte of each source, and of all under `all`."""
    pairs = list(zip(documents, measured, strict=True))
    names = list(dict.fromkeys(document.source for document in documents))
    groups = {name: [pair for pair in pairs if pair[0].source == name] for name in names}
    return {name: _total(group) for name, group in [*groups.items(), ("all", pairs)]}


def _total(pairs: Sequence[tuple[Document, Measured]]) -> dict[str, float]:
    num_bytes = sum(document.num_bytes for document, _ in pairs)
    return {
        "documents": len(pairs),
        "bytes": num_bytes,
        "tokens": sum(found.num_tokens for _, found in pairs),
        "bits_per_byte": sum(found.nats for _, found in pairs) / math.log(2) / num_bytes,
    }
