"""BatchGenerate: any order, bounded in flight, errors of one request and of the call."""

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

import understudy
from understudy import AsyncClient, BatchResult, Client, GenerateRequest
from understudy.v1 import generation_service_pb2 as generation_pb


def answer(wire: Any, request: Any) -> generation_pb.BatchGenerateResponse:
    text = request.request.input.text
    return generation_pb.BatchGenerateResponse(key=request.key, response=wire.response(text))


def in_pairs_reversed(wire: Any) -> Any:
    """Answers every two requests in reverse order, and what is left at the end."""

    def handle(requests: Iterator[Any], _: Any) -> Iterator[Any]:
        held: list[Any] = []
        for request in requests:
            held.insert(0, request)
            if len(held) == 2:
                yield from (answer(wire, r) for r in held)
                held = []
        yield from (answer(wire, r) for r in held)

    return handle


def items(num: int) -> Iterator[tuple[str, GenerateRequest]]:
    for i in range(num):
        yield f"k{i}", GenerateRequest(f"text {i}", adapter="a")


class Counted:
    """An endless source that counts what was taken from it."""

    def __init__(self) -> None:
        self.num_taken = 0

    def __iter__(self) -> Iterator[tuple[str, GenerateRequest]]:
        while True:
            self.num_taken += 1
            yield f"k{self.num_taken}", GenerateRequest("x")


def test_every_request_is_answered(scripted: Any, client: Client, wire: Any) -> None:
    scripted.handlers["BatchGenerate"] = in_pairs_reversed(wire)
    with client.batch_generate(items(51), max_in_flight=4) as answers:
        results = list(answers)
    assert [r.key for r in results[:4]] == ["k1", "k0", "k3", "k2"]
    assert {r.key: r.result.text for r in results} == {f"k{i}": f"text {i}" for i in range(51)}
    assert answers.unanswered == ()


def test_empty_batch(scripted: Any, client: Client, wire: Any) -> None:
    scripted.handlers["BatchGenerate"] = in_pairs_reversed(wire)
    assert list(client.batch_generate([])) == []


@pytest.mark.parametrize("max_in_flight", [1, 5])
def test_slow_consumer_bounds_what_is_in_flight(
    scripted: Any, client: Client, wire: Any, max_in_flight: int
) -> None:
    """A server that answers at once gets no further ahead of its client than the window."""
    arrived = []

    def eager(requests: Iterator[Any], _: Any) -> Iterator[Any]:
        for request in requests:
            arrived.append(request.key)
            yield answer(wire, request)

    scripted.handlers["BatchGenerate"] = eager
    source = Counted()
    with client.batch_generate(source, max_in_flight=max_in_flight) as answers:
        for num_consumed in range(1, 8):
            next(answers)
            deadline = time.monotonic() + 5
            while len(arrived) < num_consumed + max_in_flight and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(0.02)
            assert len(arrived) == source.num_taken == num_consumed + max_in_flight


def test_error_of_one_request(scripted: Any, client: Client, wire: Any) -> None:
    def handle(requests: Iterator[Any], _: Any) -> Iterator[Any]:
        for request in requests:
            if request.key == "k1":
                error = generation_pb.BatchError(code=3, message="prompt too long")
                yield generation_pb.BatchGenerateResponse(key=request.key, error=error)
            else:
                yield answer(wire, request)

    scripted.handlers["BatchGenerate"] = handle
    results: dict[str, BatchResult] = {r.key: r for r in client.batch_generate(items(3))}
    assert isinstance(results["k1"].error, understudy.InvalidArgumentError)
    assert str(results["k1"].error) == "prompt too long"
    assert results["k1"].result is None
    assert results["k2"].error is None


def test_broken_call_names_what_is_left(scripted: Any, client: Client, wire: Any) -> None:
    def handle(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        first, second = next(requests), next(requests)
        yield answer(wire, second)
        assert first.key == "k0"
        context.abort(grpc.StatusCode.UNAVAILABLE, "draining")

    scripted.handlers["BatchGenerate"] = handle
    answers = client.batch_generate(items(2))
    assert next(answers).key == "k1"
    with pytest.raises(understudy.UnavailableError, match="draining"):
        next(answers)
    assert answers.unanswered == ("k0",)
    assert list(answers) == []
    assert scripted.count("BatchGenerate") == 1


def test_early_end_is_an_error(scripted: Any, client: Client, wire: Any) -> None:
    def handle(requests: Iterator[Any], _: Any) -> Iterator[Any]:
        next(requests)
        yield answer(wire, next(requests))

    scripted.handlers["BatchGenerate"] = handle
    with pytest.raises(understudy.InternalError, match="1 requests unanswered"):
        list(client.batch_generate(items(2)))


def test_answer_nobody_asked_for(scripted: Any, client: Client, wire: Any) -> None:
    stray = generation_pb.BatchGenerateResponse(key="stray", response=wire.response("x"))
    scripted.handlers["BatchGenerate"] = lambda *_: iter([stray])
    with pytest.raises(understudy.InternalError, match="'stray'"):
        next(client.batch_generate(items(1)))


def test_source_that_raises(scripted: Any, client: Client, wire: Any) -> None:
    """What was sent before is answered first."""

    def source() -> Iterator[Any]:
        yield from items(2)
        raise RuntimeError("disk full")

    scripted.handlers["BatchGenerate"] = in_pairs_reversed(wire)
    answers = client.batch_generate(source())
    assert {next(answers).key, next(answers).key} == {"k0", "k1"}
    with pytest.raises(RuntimeError, match="disk full"):
        next(answers)


def test_key_in_flight_twice(scripted: Any, client: Client, wire: Any) -> None:
    scripted.handlers["BatchGenerate"] = in_pairs_reversed(wire)
    twice = [("k", GenerateRequest("a")), ("k", GenerateRequest("b"))]
    with pytest.raises(understudy.InvalidArgumentError, match="'k' is in flight"):
        list(client.batch_generate(twice))


def silent(gone: threading.Event) -> Any:
    """Takes requests, never answers."""

    def handle(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        context.add_callback(gone.set)
        for _ in requests:
            pass
        gone.wait(10)
        yield from ()

    return handle


def test_timeout_is_the_longest_wait_for_an_answer(scripted: Any, client: Client) -> None:
    gone = threading.Event()
    scripted.handlers["BatchGenerate"] = silent(gone)
    with pytest.raises(understudy.DeadlineExceededError, match="2 requests in flight"):
        next(client.batch_generate(items(2), timeout=0.3))
    assert gone.wait(5)


def test_slow_source_does_not_time_out(scripted: Any, client: Client, wire: Any) -> None:
    def slow() -> Iterator[Any]:
        for item in items(2):
            time.sleep(0.4)
            yield item

    def handle(requests: Iterator[Any], _: Any) -> Iterator[Any]:
        yield from (answer(wire, request) for request in requests)

    scripted.handlers["BatchGenerate"] = handle
    assert len(list(client.batch_generate(slow(), timeout=0.2))) == 2


@pytest.mark.parametrize("how", ["close", "drop"])
def test_closing_cancels_and_ends_the_source(scripted: Any, client: Client, how: str) -> None:
    gone = threading.Event()
    scripted.handlers["BatchGenerate"] = silent(gone)
    source = Counted()
    answers = client.batch_generate(source, max_in_flight=3)
    time.sleep(0.2)
    if how == "close":
        answers.close()
    del answers
    gc.collect()
    assert gone.wait(5)
    assert source.num_taken == 3


def test_window_must_be_positive(client: Client) -> None:
    with pytest.raises(understudy.InvalidArgumentError, match="max_in_flight"):
        client.batch_generate([], max_in_flight=0)


async def aitems(num: int) -> AsyncIterator[tuple[str, GenerateRequest]]:
    for item in items(num):
        await asyncio.sleep(0)
        yield item


@pytest.mark.parametrize("source", [items, aitems])
async def test_async_every_request_is_answered(
    scripted: Any, aclient: AsyncClient, wire: Any, source: Any
) -> None:
    scripted.handlers["BatchGenerate"] = in_pairs_reversed(wire)
    async with aclient.batch_generate(source(51), max_in_flight=4) as answers:
        results = [r async for r in answers]
    assert {r.key: r.result.text for r in results} == {f"k{i}": f"text {i}" for i in range(51)}


async def test_async_slow_consumer_bounds_what_is_in_flight(
    scripted: Any, aclient: AsyncClient, wire: Any
) -> None:
    arrived = []

    def eager(requests: Iterator[Any], _: Any) -> Iterator[Any]:
        for request in requests:
            arrived.append(request.key)
            yield answer(wire, request)

    scripted.handlers["BatchGenerate"] = eager
    source = Counted()
    async with aclient.batch_generate(source, max_in_flight=3) as answers:
        for num_consumed in range(1, 6):
            await anext(answers)
            deadline = time.monotonic() + 5
            while len(arrived) < num_consumed + 3 and time.monotonic() < deadline:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.02)
            assert len(arrived) == source.num_taken == num_consumed + 3


async def test_async_broken_call(scripted: Any, aclient: AsyncClient, wire: Any) -> None:
    def handle(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        next(requests)
        yield answer(wire, next(requests))
        context.abort(grpc.StatusCode.UNAVAILABLE, "draining")

    scripted.handlers["BatchGenerate"] = handle
    answers = aclient.batch_generate(items(2))
    assert (await anext(answers)).key == "k1"
    with pytest.raises(understudy.UnavailableError, match="draining"):
        await anext(answers)
    assert answers.unanswered == ("k0",)


async def test_async_source_that_raises(scripted: Any, aclient: AsyncClient, wire: Any) -> None:
    async def source() -> AsyncIterator[Any]:
        async for item in aitems(2):
            yield item
        raise RuntimeError("disk full")

    scripted.handlers["BatchGenerate"] = in_pairs_reversed(wire)
    answers = aclient.batch_generate(source())
    assert {(await anext(answers)).key, (await anext(answers)).key} == {"k0", "k1"}
    with pytest.raises(RuntimeError, match="disk full"):
        await anext(answers)


async def test_async_timeout(scripted: Any, aclient: AsyncClient) -> None:
    gone = threading.Event()
    scripted.handlers["BatchGenerate"] = silent(gone)
    with pytest.raises(understudy.DeadlineExceededError):
        await anext(aclient.batch_generate(items(2), timeout=0.3))
    assert await asyncio.to_thread(gone.wait, 5)


async def test_async_close(scripted: Any, aclient: AsyncClient) -> None:
    gone = threading.Event()
    scripted.handlers["BatchGenerate"] = silent(gone)
    answers = aclient.batch_generate(items(2))
    asyncio.get_running_loop().call_later(0.1, lambda: asyncio.ensure_future(answers.aclose()))
    with pytest.raises(understudy.CancelledError):
        await anext(answers)
    assert await asyncio.to_thread(gone.wait, 5)
