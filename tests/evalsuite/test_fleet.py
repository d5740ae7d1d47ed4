"""Several servers, a server that goes away, and how much is in flight."""

import asyncio
import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from evalsuite.errors import RequestRefused, ServerAway, ServerError
from evalsuite.fleet import Fleet, Member
from evalsuite.throttle import Throttle
from evalsuite.types import Answer, Request, Row, RowKind

REQUEST = Request("a@1", "hello", False, 8)
MODEL = {
    "base_fingerprint": "f",
    "quantization": "nf4",
    "weight_form": "nf4_held",
    "dtype": "bfloat16",
    "int8_threshold": 6.0,
    "max_context_tokens": 100,
    "server_version": "1",
}


@dataclass
class Scripted:
    """A server that answers, or fails as told."""

    name: str
    failures: list[Exception] = field(default_factory=list)
    model_fields: dict[str, Any] = field(default_factory=lambda: dict(MODEL))
    version: str = "v1"
    num_asked: int = 0
    in_flight: int = 0
    most_in_flight: int = 0

    async def model(self) -> dict[str, Any]:
        return self.model_fields

    async def adapter_row(self, name: str) -> Row:
        return Row(name, RowKind.ADAPTER, name, self.version)

    async def count_tokens(self, prompt: str) -> int:
        return len(prompt.split())

    async def answer(self, request: Request) -> Answer:
        self.num_asked += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0.001)
        self.in_flight -= 1
        if self.failures:
            raise self.failures.pop(0)
        return Answer(f"{self.name}: {request.text}")


class Clock:
    """Sleeps end at once and are written down."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


def fleet(*servers: Scripted, limit: int = 4, clock: Clock | None = None) -> Fleet:
    members = [Member(server.name, server, Throttle(limit, limit)) for server in servers]
    return Fleet(members, (clock or Clock()).sleep)


async def test_servers_share_the_work() -> None:
    servers = [Scripted("a"), Scripted("b"), Scripted("c")]
    shared = fleet(*servers)
    answers = await asyncio.gather(*(shared.answer(REQUEST) for _ in range(60)))
    assert len(answers) == 60
    assert all(15 <= server.num_asked <= 25 for server in servers)
    assert all(server.most_in_flight <= 4 for server in servers)


async def test_a_server_that_comes_back_is_asked_again() -> None:
    clock = Clock()
    server = Scripted("a", [ServerAway("gone") for _ in range(6)])
    assert (await fleet(server, clock=clock).answer(REQUEST)).text == "a: hello"
    assert server.num_asked == 7
    bounds = [0.2, 0.4, 0.8, 1.6, 3.2, 5.0]
    assert all(b / 2 <= s <= b for s, b in zip(clock.slept, bounds, strict=True))


async def test_the_servers_own_delay_is_waited() -> None:
    clock = Clock()
    server = Scripted("a", [ServerAway("busy", retry_after_s=7.0)])
    await fleet(server, clock=clock).answer(REQUEST)
    assert 7.1 <= clock.slept[0] <= 7.2


async def test_a_lost_server_leaves_its_work_to_the_others() -> None:
    lost = Scripted("a", [ServerAway("gone") for _ in range(1000)])
    other = Scripted("b")
    shared = fleet(lost, other)
    answers = await asyncio.gather(*(shared.answer(REQUEST) for _ in range(200)))
    assert {answer.text for answer in answers} == {"b: hello"}


async def test_the_last_server_lost_ends_it() -> None:
    servers = [Scripted(name, [ServerAway("gone") for _ in range(1000)]) for name in "ab"]
    shared = fleet(*servers)
    found = await asyncio.gather(
        *(shared.answer(REQUEST) for _ in range(30)), return_exceptions=True
    )
    assert all(isinstance(error, ServerError) for error in found)


@pytest.mark.parametrize("error", [RequestRefused("too long"), ServerError("internal error")])
async def test_other_errors_are_no_reason_to_try_again(error: Exception) -> None:
    server = Scripted("a", [error])
    with pytest.raises(type(error), match=str(error)):
        await fleet(server, Scripted("b")).answer(REQUEST)
    assert server.num_asked == 1


@pytest.mark.parametrize("name", sorted(MODEL))
async def test_servers_with_different_models_are_refused(name: str) -> None:
    other = Scripted("b", model_fields={**MODEL, name: "other"})
    with pytest.raises(ServerError, match=rf"a and b differ in {name}: .* and other"):
        await fleet(Scripted("a"), other).model()


async def test_servers_with_different_versions_are_refused() -> None:
    shared = fleet(Scripted("a"), replace(Scripted("b"), version="v2"))
    with pytest.raises(ServerError, match="'x' is version v1 at a and v2 at b"):
        await shared.adapter_row("x")


async def test_no_more_than_the_limit_is_in_flight() -> None:
    server = Scripted("a")
    shared = fleet(server, limit=3)
    await asyncio.gather(*(shared.answer(REQUEST) for _ in range(30)))
    assert server.most_in_flight == 3


async def test_first_come_first_served() -> None:
    throttle = Throttle(1, 1)
    order: list[int] = []

    async def work(number: int) -> None:
        async with throttle.room():
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(work(number) for number in range(10)))
    assert order == list(range(10))


async def test_a_cancelled_waiter_leaves_its_place() -> None:
    throttle = Throttle(1, 1)
    entered = asyncio.Event()

    async def hold() -> None:
        async with throttle.room():
            entered.set()
            await asyncio.sleep(0.01)

    holder = asyncio.create_task(hold())
    await entered.wait()
    waiter = asyncio.create_task(hold())
    await asyncio.sleep(0)
    waiter.cancel()
    await asyncio.gather(holder, waiter, return_exceptions=True)
    async with asyncio.timeout(1), throttle.room():
        pass
    assert throttle.load == 0


def test_the_bound_finds_what_the_server_takes() -> None:
    """A server that runs 8 at a time: requests beyond that wait as long as it takes to get in."""
    throttle = Throttle(8, 1000)
    for _ in range(5000):
        throttle.answered(max(0.0, throttle.limit / 8 - 1), throttle.limit / 8)
    # Half of the time is spent waiting where twice as many are sent as run.
    assert 12 <= throttle.limit <= 20
    for _ in itertools.repeat(None, 5000):
        throttle.answered(1.0, 1.0)
    assert throttle.limit == 1.0
    for _ in range(100):
        throttle.answered(0.0, 1.0)
    assert throttle.limit > 10


def test_the_bound_has_a_bound() -> None:
    throttle = Throttle(8, 10)
    for _ in range(1000):
        throttle.answered(0.0, 1.0)
    assert throttle.limit == 10
