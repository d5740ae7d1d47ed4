"""From a decoded request to the engine and back: lease, prompt, events, cancellation."""

import contextlib
import itertools
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from server.errors import QueueFullError
from server.metrics import Metrics
from server.rpc.events import EventBridge, EventChannel
from server.rpc.leases import AdapterChoice, AnyLease, LeaseDesk
from server.types import (
    Constraint,
    Delta,
    EngineStats,
    Event,
    Failed,
    Request,
    SamplingParams,
    StoppingParams,
)


class EngineLike(Protocol):
    """What the servicers need of `server.engine.engine.Engine`."""

    def submit(self, request: Request) -> None:
        """Queues a request; if it raises, the lease is still the caller's."""

    def cancel(self, request_id: str) -> None:
        """Ends a request; unknown ids are ignored."""

    def stats(self) -> EngineStats:
        """What the engine is doing now."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a request asks the engine to run, once its adapter is known."""

    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    stopping: StoppingParams
    num_logprobs: int | None = None
    num_prompt_logprobs: int | None = None
    num_samples: int = 1
    continuations: tuple[tuple[int, ...], ...] = ()
    classify: bool = False
    constraint: Constraint | None = None
    priority: int = 0
    tenant: str = ""
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """An accepted request."""

    lease: AnyLease | None
    """For its name and version only: the engine releases it."""
    num_prompt_tokens: int
    channel: EventChannel

    async def events(self) -> AsyncIterator[Event]:
        """The request's events, the last one terminal. Raises what the engine failed with."""
        while True:
            event = await self.channel.next()
            if isinstance(event, Failed):
                raise event.error
            yield event
            if not isinstance(event, Delta):
                return

    async def result(self) -> Event:
        """The terminal event. Raises what the engine failed with."""
        async for event in self.events():
            result = event
        return result


class Admission:
    """Takes requests into the engine."""

    def __init__(
        self, engine: EngineLike, desk: LeaseDesk, bridge: EventBridge, metrics: Metrics
    ) -> None:
        self._engine = engine
        self._desk = desk
        self._bridge = bridge
        self._metrics = metrics
        # Clients choose their own ids, so two may choose the same one.
        self._ids = itertools.count()

    @contextlib.asynccontextmanager
    async def lease(self, adapter: AdapterChoice) -> AsyncIterator[AnyLease | None]:
        """A lease for the time of the block."""
        lease = await self._desk.acquire(adapter)
        try:
            yield lease
        finally:
            if lease is not None:
                lease.release()

    @contextlib.asynccontextmanager
    async def run(
        self,
        adapter: AdapterChoice,
        time_remaining_s: float | None,
        prepare: Callable[[AnyLease | None], Awaitable[Work]],
    ) -> AsyncIterator[Running]:
        """A request that runs for the time of the block; leaving early cancels it.

        `prepare` makes the work for the adapter's version. Raises the server's errors.
        """
        arrival_s = time.monotonic()
        has_deadline = time_remaining_s is not None and math.isfinite(time_remaining_s)
        deadline_s = arrival_s + (time_remaining_s or 0.0) if has_deadline else None
        lease = await self._desk.acquire(adapter)
        channel = EventChannel()
        engine_id = f"request-{next(self._ids)}"
        try:
            work = await prepare(lease)
            self._engine.submit(
                Request(
                    request_id=engine_id,
                    prompt_token_ids=work.prompt_token_ids,
                    lease=lease,
                    sampling=work.sampling,
                    stopping=work.stopping,
                    emit=partial(self._bridge.emit, channel),
                    arrival_s=arrival_s,
                    deadline_s=deadline_s,
                    num_logprobs=work.num_logprobs,
                    num_prompt_logprobs=work.num_prompt_logprobs,
                    num_samples=work.num_samples,
                    continuations=work.continuations,
                    classify=work.classify,
                    constraint=work.constraint,
                    priority=work.priority,
                    tenant=work.tenant,
                    stream=work.stream,
                )
            )
        except BaseException as error:
            if lease is not None:
                lease.release()
            if isinstance(error, QueueFullError):
                self._metrics.queue_rejected()
            raise
        try:
            yield Running(lease, len(work.prompt_token_ids), channel)
        finally:
            if not channel.ended:
                self._engine.cancel(engine_id)
