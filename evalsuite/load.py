"""Drives a server at a given rate or concurrency with a mix of adapters, and measures it.

At a rate, requests leave at the times of a Poisson process whether or not earlier ones are back,
and a latency counts from the time a request was due: a server that falls behind cannot hide it by
slowing the clients down ("coordinated omission"). With a concurrency, each of so many clients sends
its next request when the last is answered, and a latency counts from the sending.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evalsuite.errors import ServerError
from understudy import AsyncClient, RetryPolicy, StoppingParams
from understudy.errors import UnderstudyError
from understudy.types import StreamDelta, StreamFinished

PERCENTILES = (50, 90, 95, 99)
# Beyond this many requests on their way the server is lost anyway, and so would this machine be.
_MOST_IN_FLIGHT = 4096


@dataclass(frozen=True)
class LoadConfig:
    """What is sent."""

    adapters: tuple[str, ...]
    """Empty text: the bare base."""
    prompts: tuple[str, ...]
    num_requests: int
    rate: float | None
    """Requests per second; None: by concurrency."""
    concurrency: int
    zipf: float = 0.0
    """Exponent of the adapters' popularity in the order given; 0: all alike."""
    max_tokens: int = 32
    seed: int = 0


@dataclass
class Measured:
    """One request. Times are in seconds on a common clock."""

    adapter: str
    due_s: float
    """When it should have left; with a concurrency, when it did."""
    first_token_s: float | None = None
    end_s: float = 0.0
    num_tokens: int = 0
    batch_size: int = 0
    """Most sequences in a step it took part in."""
    error: str = ""
    """Status and message of a request that failed."""


@dataclass(frozen=True)
class Drawn:
    """One request before it is sent."""

    adapter: str
    prompt: str
    due_s: float
    """After the start; 0 with a concurrency."""


@dataclass(frozen=True)
class LoadResult:
    """All requests of one drive."""

    config: LoadConfig
    requests: tuple[Measured, ...]
    wall_s: float
    late_s: float = field(default=0.0)
    """How late the latest request left: this machine's fault, not the server's."""


def draw(config: LoadConfig) -> list[Drawn]:
    """The requests of a drive, equal for equal configurations."""
    rng = random.Random(config.seed)
    weights = [1 / rank**config.zipf for rank in range(1, len(config.adapters) + 1)]
    adapters = rng.choices(config.adapters, weights, k=config.num_requests)
    due_s, drawn = 0.0, []
    for adapter in adapters:
        drawn.append(Drawn(adapter, rng.choice(config.prompts), due_s))
        due_s += rng.expovariate(config.rate) if config.rate is not None else 0.0
    return drawn


async def drive(address: str, config: LoadConfig) -> LoadResult:
    """Sends everything and waits for it. Raises ServerError if no server answers at the start.

    A request that fails is counted, with its status; it does not end the drive.
    """
    async with AsyncClient(address, timeout=600.0, retry=RetryPolicy(max_attempts=1)) as client:
        try:
            await client.model_info(timeout=5.0)
        except UnderstudyError as error:
            raise ServerError(f"no server answers at {address}: {error}") from error
        drawn = draw(config)
        start_s = time.perf_counter()
        if config.rate is None:
            found, late_s = await _closed(client, config, drawn), 0.0
        else:
            found, late_s = await _open(client, config, drawn, start_s)
        return LoadResult(config, tuple(found), time.perf_counter() - start_s, late_s)


async def _closed(
    client: AsyncClient, config: LoadConfig, drawn: Sequence[Drawn]
) -> list[Measured]:
    queue = iter(drawn)
    found: list[Measured] = []

    async def one_client() -> None:
        for request in queue:
            found.append(await _send(client, config, request, time.perf_counter()))

    await asyncio.gather(*(one_client() for _ in range(config.concurrency)))
    return found


async def _open(
    client: AsyncClient, config: LoadConfig, drawn: Sequence[Drawn], start_s: float
) -> tuple[list[Measured], float]:
    room = asyncio.Semaphore(_MOST_IN_FLIGHT)
    late_s = 0.0
    tasks = []

    async def send(request: Drawn) -> Measured:
        try:
            return await _send(client, config, request, start_s + request.due_s)
        finally:
            room.release()

    for request in drawn:
        await room.acquire()
        wait_s = start_s + request.due_s - time.perf_counter()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        late_s = max(late_s, time.perf_counter() - start_s - request.due_s)
        tasks.append(asyncio.create_task(send(request)))
    return list(await asyncio.gather(*tasks)), late_s


async def _send(client: AsyncClient, config: LoadConfig, request: Drawn, due_s: float) -> Measured:
    measured = Measured(request.adapter, due_s)
    stopping = StoppingParams(max_tokens=config.max_tokens)
    try:
        async with client.stream(
            request.prompt, adapter=request.adapter, stopping=stopping
        ) as events:
            async for event in events:
                if isinstance(event, StreamDelta) and measured.first_token_s is None:
                    measured.first_token_s = time.perf_counter()
                elif isinstance(event, StreamFinished):
                    measured.num_tokens = event.usage.num_completion_tokens
                    measured.batch_size = event.usage.max_batch_size
    except UnderstudyError as error:
        measured.error = f"{error.code.name}: {error}"
    measured.end_s = time.perf_counter()
    return measured


def summary(result: LoadResult) -> dict[str, Any]:
    """Counts, throughput and latency percentiles, in all and by adapter, as JSON values."""
    answered = [one for one in result.requests if not one.error]
    failed = [one for one in result.requests if one.error]
    failures = Counter(one.error.partition(":")[0] for one in failed)
    config = result.config
    return {
        "num_requests": len(result.requests),
        "num_failed": len(failed),
        "failures": dict(failures),
        "first_failure": failed[0].error if failed else None,
        "wall_s": round(result.wall_s, 4),
        "late_ms": round(1000 * result.late_s, 2),
        "rate": config.rate,
        "concurrency": None if config.rate is not None else config.concurrency,
        "zipf": config.zipf,
        "max_tokens": config.max_tokens,
        "requests_per_s": round(len(answered) / result.wall_s, 3),
        "tokens_per_s": round(sum(one.num_tokens for one in answered) / result.wall_s, 3),
        "max_batch_size": max((one.batch_size for one in answered), default=0),
        **_latencies(answered),
        "adapters": {
            name or "base": {
                "num_requests": sum(one.adapter == name for one in result.requests),
                "num_failed": sum(one.adapter == name for one in failed),
                **_latencies([one for one in answered if one.adapter == name]),
            }
            for name in config.adapters
        },
    }


def _latencies(answered: Sequence[Measured]) -> dict[str, dict[str, float | None]]:
    """Milliseconds from when a request was due to its first token and to its end."""
    first = [one.first_token_s - one.due_s for one in answered if one.first_token_s is not None]
    whole = [one.end_s - one.due_s for one in answered]
    return {"first_token_ms": _percentiles(first), "latency_ms": _percentiles(whole)}


def _percentiles(seconds: Sequence[float]) -> dict[str, float | None]:
    if not seconds:
        return {f"p{percent}": None for percent in PERCENTILES}
    values = np.percentile(np.array(seconds) * 1000, PERCENTILES)
    return {
        f"p{percent}": round(float(value), 2)
        for percent, value in zip(PERCENTILES, values, strict=True)
    }
