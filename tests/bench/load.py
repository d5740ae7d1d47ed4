"""What the client sends, and what it sees: requests through the real gRPC door."""

import asyncio
import bisect
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.bench.shape import Shape
from understudy import (
    AsyncClient,
    GenerateRequest,
    StoppingParams,
    StreamDelta,
    StreamFinished,
    TokenIds,
)

TIMEOUT_S = 600.0
_READY_TIMEOUT_S = 30.0
_TOUCHES = 8  # At a time: few, so that the order is about kept.
_FIRST_WORD = 300  # Token ids below it are the end of sequence and single bytes.


@dataclass(frozen=True)
class Load:
    """Requests of one size, so many of them in flight until all are answered."""

    concurrency: int = 16
    prompt_tokens: int = 64
    output_tokens: int = 64


@dataclass
class Round:
    """What one round showed. Latencies as the client saw them, where it streamed."""

    wall_s: float = 0.0
    num_tokens: int = 0
    num_cached_tokens: int = 0
    """Prompt tokens that the server found in its prefix cache."""
    first_token_s: list[float] = field(default_factory=list)
    inter_token_s: list[float] = field(default_factory=list)
    token_ids: list[list[int]] = field(default_factory=list)
    decode_step_s: float | None = None
    """Median time of a step that only decodes, where it could be seen."""

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens over the time from the first request to the last answer."""
        return self.num_tokens / self.wall_s


def prompts(shape: Shape, load: Load, count: int, seed: str) -> list[list[int]]:
    """Random prompts. Each seed has its own, so that no round finds another's prefixes cached."""
    rng = random.Random(seed)
    return [
        [rng.randrange(_FIRST_WORD, shape.vocab) for _ in range(load.prompt_tokens)]
        for _ in range(count)
    ]


def zipf(names: Sequence[str], count: int, seed: str) -> list[str]:
    """Names drawn with probabilities proportional to 1, 1/2, 1/3, ... (Zipf, s = 1)."""
    return list(itertools.islice(_zipf_stream(names, seed), count))


def least_recent_first(names: Sequence[str], size: int, seed: str) -> list[str]:
    """The `size` names that an endless Zipf stream asked for last, the oldest first.

    Asked for once each in this order, they leave an LRU cache as the stream would.
    """
    # Read backwards in time, so the first mention of a name is its last use.
    seen: dict[str, None] = {}
    for name in _zipf_stream(names, seed):
        if len(seen) == size:
            break
        seen[name] = None
    return list(reversed(seen))


def _zipf_stream(names: Sequence[str], seed: str) -> Iterator[str]:
    rng = random.Random(seed)
    cumulative = list(itertools.accumulate(1 / rank for rank in range(1, len(names) + 1)))
    while True:
        yield names[bisect.bisect(cumulative, rng.random() * cumulative[-1])]


async def play(
    address: str, requests: Sequence[tuple[str, list[int]]], load: Load, *, stream: bool
) -> Round:
    """Ask for (adapter, prompt) pairs, `load.concurrency` at a time; greedy, to full length.

    With `stream` the tokens come one by one and latencies are noted. Raises RuntimeError where an
    answer has another length than asked for.
    """
    result = Round(token_ids=[[] for _ in requests])
    pending = iter(enumerate(requests))
    stopping = StoppingParams(max_tokens=load.output_tokens, ignore_eos=True)
    async with AsyncClient(address, timeout=TIMEOUT_S) as client:
        await client.wait_ready(timeout=_READY_TIMEOUT_S)

        async def worker() -> None:
            for index, (adapter, prompt) in pending:
                request = GenerateRequest(TokenIds(prompt), adapter=adapter, stopping=stopping)
                if stream:
                    await _stream(client, request, result, result.token_ids[index])
                else:
                    answer = await client.generate(request)
                    result.token_ids[index] += answer.generations[0].token_ids
                    result.num_cached_tokens += answer.usage.num_cached_tokens

        begin = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(load.concurrency):
                group.create_task(worker())
        result.wall_s = time.perf_counter() - begin
    result.num_tokens = sum(map(len, result.token_ids))
    if any(len(ids) != load.output_tokens for ids in result.token_ids):
        raise RuntimeError("an answer has another length than was asked for")
    return result


async def touch(address: str, names: Sequence[str]) -> None:
    """Ask for one token of each adapter, about in order, so that it is in memory and in a slot."""
    stopping = StoppingParams(max_tokens=1, ignore_eos=True)
    pending = iter(names)
    async with AsyncClient(address, timeout=TIMEOUT_S) as client:

        async def worker() -> None:
            for name in pending:
                await client.generate(TokenIds([_FIRST_WORD]), adapter=name, stopping=stopping)

        async with asyncio.TaskGroup() as group:
            for _ in range(_TOUCHES):
                group.create_task(worker())


async def _stream(
    client: AsyncClient, request: GenerateRequest, result: Round, ids: list[int]
) -> None:
    last = begin = time.perf_counter()
    async with client.stream(request) as stream:
        async for event in stream:
            if isinstance(event, StreamFinished):
                result.num_cached_tokens += event.usage.num_cached_tokens
            if not isinstance(event, StreamDelta) or not event.token_ids:
                continue
            now = time.perf_counter()
            if ids:
                result.inter_token_s += [(now - last) / len(event.token_ids)] * len(event.token_ids)
            else:
                result.first_token_s.append(now - begin)
            last = now
            ids += event.token_ids
