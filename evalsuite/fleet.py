"""One model behind one or more servers, with as much in flight at each as it takes.

A server that goes away, or asks to wait, gets another try after a delay that doubles; meanwhile its
requests go to the others. Only when none is left does the run end, and what was answered is kept.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

from evalsuite.errors import ServerAway, ServerError
from evalsuite.generator import ClientGenerator, Generator, model_identity
from evalsuite.throttle import Throttle
from evalsuite.types import Answer, Request, Row
from understudy import Usage

T = TypeVar("T")

# Together about 20 s, in which a server restarts or a pod is moved.
_MAX_FAILURES = 10
_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 5.0

Sleep = Callable[[float], Awaitable[None]]


@dataclass
class Member:
    """One server of a fleet."""

    address: str
    generator: Generator
    throttle: Throttle
    num_failures: int = 0
    """In a row."""
    away: "asyncio.Future[None] | None" = field(default=None, repr=False)
    """Done when the delay after a failure is over."""

    @property
    def is_lost(self) -> bool:
        """Whether it failed too often to be tried again."""
        return self.num_failures >= _MAX_FAILURES


class Fleet:
    """A Generator over members that hold the same model."""

    def __init__(self, members: Sequence[Member], sleep: Sleep = asyncio.sleep) -> None:
        self._members = tuple(members)
        self._sleep = sleep
        self._model: dict[str, Any] | None = None

    @property
    def most_in_flight(self) -> int:
        """How many requests can be of use at a time."""
        return sum(member.throttle.most for member in self._members)

    async def model(self) -> dict[str, Any]:
        """The first server's GetModelInfo. Raises ServerError if another holds another model."""
        if self._model is None:
            models = [await member.generator.model() for member in self._members]
            for member, found in zip(self._members[1:], models[1:], strict=True):
                _same(self._members[0].address, models[0], member.address, found)
            self._model = models[0]
        return self._model

    async def adapter_row(self, name: str) -> Row:
        """The adapter's row. Raises ServerError unless every server has the same version."""
        rows = [await member.generator.adapter_row(name) for member in self._members]
        for member, row in zip(self._members[1:], rows[1:], strict=True):
            if row != rows[0]:
                raise ServerError(
                    f"adapter '{name}' is version {rows[0].version} at "
                    f"{self._members[0].address} and {row.version} at {member.address}; name one "
                    "version, or give each server the same store"
                )
        return rows[0]

    async def count_tokens(self, prompt: str) -> int:
        """Tokens of a verbatim prompt on the bare base."""
        return await self._somewhere(lambda member: member.generator.count_tokens(prompt))

    async def answer(self, request: Request) -> Answer:
        """The answer of whichever server has most room."""

        async def ask(member: Member) -> Answer:
            async with member.throttle.room():
                return await member.generator.answer(request)

        return await self._somewhere(ask)

    async def _somewhere(self, ask: Callable[[Member], Awaitable[T]]) -> T:
        while True:
            member = await self._choose()
            try:
                found = await ask(member)
            except ServerAway as error:
                self._set_away(member, error)
            else:
                member.num_failures = 0
                return found

    async def _choose(self) -> Member:
        """The member to ask. Waits while all of them are away."""
        while True:
            here = [member for member in self._members if member.away is None]
            if here:
                return min(here, key=lambda member: member.throttle.load)
            coming = [m.away for m in self._members if m.away is not None and not m.is_lost]
            if not coming:
                raise ServerError("no server is left")
            await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)

    def _set_away(self, member: Member, error: ServerAway) -> None:
        """Books a failure. Raises it if it was the last member's last."""
        if member.away is not None and not member.is_lost:
            # Others in flight fail along with the first; together they are one failure.
            return
        member.num_failures += 1
        member.throttle.slow_down()
        if member.is_lost and all(m.is_lost for m in self._members):
            raise error
        exponential = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2 ** (member.num_failures - 1))
        delay = error.retry_after_s + random.uniform(exponential / 2, exponential)
        member.away = asyncio.ensure_future(self._return(member, delay))

    async def _return(self, member: Member, delay_s: float) -> None:
        await self._sleep(delay_s)
        if not member.is_lost:
            member.away = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for member in self._members:
            if member.away is not None:
                member.away.cancel()


async def open_fleet(
    addresses: Sequence[str], concurrency: int | None, stack: AsyncExitStack
) -> Fleet:
    """A fleet of the servers at these addresses, closed with `stack`.

    At most `concurrency` requests are in flight at each; by default four times its batch size, so
    that the bound is found rather than set. Raises ServerError if one cannot be used.
    """
    members = []
    for address in addresses:
        throttle = Throttle(1, 1)

        def observe(usage: Usage, throttle: Throttle = throttle) -> None:
            throttle.answered(usage.queue_s, usage.total_s)

        generator = await stack.enter_async_context(ClientGenerator(address, observe))
        batch_size = (await generator.model())["max_batch_size"]
        most = concurrency or max(8, 4 * batch_size)
        throttle.resize(concurrency or max(8, batch_size), most)
        members.append(Member(address, generator, throttle))
    return await stack.enter_async_context(Fleet(members))


def _same(first: str, model: Mapping[str, Any], second: str, other: Mapping[str, Any]) -> None:
    ours, theirs = model_identity(dict(model)), model_identity(dict(other))
    different = [name for name in ours if ours[name] != theirs[name]]
    if different:
        name = different[0]
        raise ServerError(
            f"--server: {first} and {second} differ in {name}: {ours[name]} and {theirs[name]}; "
            "servers that share the work must give the same answers"
        )
