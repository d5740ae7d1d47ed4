"""Streams: events, retries before the first token only, closing cancels the call."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

import understudy
from understudy import AsyncClient, Client, StreamDelta, StreamFinished, StreamStarted
from understudy.v1 import adapter_service_pb2 as adapter_pb
from understudy.v1 import types_pb2 as types_pb


def text_of(events: list[understudy.StreamEvent]) -> str:
    return "".join(e.text for e in events if isinstance(e, StreamDelta))


def breaks_after_a_token(wire: Any) -> Callable[..., Iterator[Any]]:
    def handle(_: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield wire.started("v")
        yield wire.delta("par")
        context.abort(grpc.StatusCode.UNAVAILABLE, "draining")

    return handle


def test_events_in_order(scripted: Any, client: Client, wire: Any) -> None:
    scripted.handlers["GenerateStream"] = wire.words_stream("v", "one ", "two")
    events = list(client.stream("x", adapter="a"))
    assert [type(e) for e in events] == [StreamStarted, StreamDelta, StreamDelta, StreamFinished]
    assert text_of(events) == "one two"
    assert events[-1].generations[0].finish_reason is understudy.FinishReason.LENGTH
    assert scripted.requests["GenerateStream"][0].request.adapter == "a"


def test_call_is_under_way_before_iteration(scripted: Any, client: Client, wire: Any) -> None:
    arrived = threading.Event()
    words = wire.words_stream("v", "x")

    def handle(request: Any, context: Any) -> Iterator[Any]:
        arrived.set()
        yield from words(request, context)

    scripted.handlers["GenerateStream"] = handle
    with client.stream("x"):
        assert arrived.wait(5)


def test_retry_before_the_first_token(scripted: Any, client: Client, wire: Any) -> None:
    """An attempt that was started but gave no token leaves no trace in the events."""
    scripted.handlers["GenerateStream"] = wire.failing_first(
        2, wire.words_stream("new", "text"), wire.unavailable_stream
    )
    events = list(client.stream("x"))
    assert [e.adapter.version for e in events if isinstance(e, StreamStarted)] == ["new"]
    assert text_of(events) == "text"
    assert scripted.count("GenerateStream") == 3


def test_no_retry_after_the_first_token(scripted: Any, client: Client, wire: Any) -> None:
    scripted.handlers["GenerateStream"] = breaks_after_a_token(wire)
    events: list[understudy.StreamEvent] = []
    stream = client.stream("x")
    with pytest.raises(understudy.UnavailableError):
        events.extend(stream)
    assert text_of(events) == "par"
    assert scripted.count("GenerateStream") == 1
    assert list(stream) == []


def test_truncated_stream_is_an_error(scripted: Any, client: Client, wire: Any) -> None:
    scripted.handlers["GenerateStream"] = lambda *_: iter([wire.started("v"), wire.delta("a")])
    with pytest.raises(understudy.InternalError, match="finished"):
        list(client.stream("x"))


def test_deadline_covers_the_stream(scripted: Any, client: Client, wire: Any) -> None:
    scripted.handlers["GenerateStream"] = wire.endless_stream(lambda: None)
    began = time.monotonic()
    with pytest.raises(understudy.DeadlineExceededError):
        list(client.stream("x", timeout=0.3))
    assert time.monotonic() - began < 5
    assert scripted.count("GenerateStream") == 1


def test_close_cancels_at_the_server(scripted: Any, client: Client, wire: Any) -> None:
    ended = threading.Event()
    scripted.handlers["GenerateStream"] = wire.endless_stream(ended.set)
    stream = client.stream("x")
    next(stream)
    stream.close()
    assert ended.wait(5)
    with pytest.raises(StopIteration):
        next(stream)


def test_leaving_the_block_cancels(scripted: Any, client: Client, wire: Any) -> None:
    ended = threading.Event()
    scripted.handlers["GenerateStream"] = wire.endless_stream(ended.set)
    with client.stream("x") as stream:
        for event in stream:
            if isinstance(event, StreamDelta):
                break
    assert ended.wait(5)


def test_dropping_the_stream_cancels(scripted: Any, client: Client, wire: Any) -> None:
    ended = threading.Event()
    scripted.handlers["GenerateStream"] = wire.endless_stream(ended.set)
    stream = client.stream("x")
    next(stream)
    del stream
    assert ended.wait(5)


def test_close_from_another_thread(scripted: Any, client: Client) -> None:
    released = threading.Event()

    def hang(_: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        context.add_callback(released.set)
        released.wait(10)
        yield from ()

    scripted.handlers["GenerateStream"] = hang
    stream = client.stream("x")
    threading.Timer(0.1, stream.close).start()
    with pytest.raises(understudy.CancelledError):
        next(stream)
    assert released.is_set() or released.wait(5)


def test_close_during_a_wait_to_retry(scripted: Any, wire: Any) -> None:
    scripted.handlers["GenerateStream"] = wire.unavailable_stream
    slow = understudy.RetryPolicy(initial_backoff_s=1000, max_backoff_s=1000)
    with Client(scripted.address, timeout=None, retry=slow) as client:
        stream = client.stream("x")
        threading.Timer(0.2, stream.close).start()
        with pytest.raises(understudy.CancelledError):
            next(stream)


def test_watch(scripted: Any, client: Client) -> None:
    def changes(_: Any, __: Any) -> Iterator[Any]:
        for change in (adapter_pb.ADAPTER_CHANGE_LOADED, adapter_pb.ADAPTER_CHANGE_ALIAS, 99):
            yield adapter_pb.WatchAdaptersResponse(
                change=change, adapter=types_pb.Adapter(name="a")
            )

    scripted.handlers["WatchAdapters"] = changes
    with client.adapters.watch(name_prefix="a", timeout=5) as events:
        seen = list(events)
    assert [e.change.name for e in seen] == ["LOADED", "ALIAS", "UNSPECIFIED"]
    assert seen[0].at is None


async def test_async_events(scripted: Any, aclient: AsyncClient, wire: Any) -> None:
    scripted.handlers["GenerateStream"] = wire.failing_first(
        1, wire.words_stream("new", "one ", "two"), wire.unavailable_stream
    )
    async with aclient.stream("x") as stream:
        events = [event async for event in stream]
    assert [type(e) for e in events] == [StreamStarted, StreamDelta, StreamDelta, StreamFinished]
    assert text_of(events) == "one two"
    assert scripted.count("GenerateStream") == 2


async def test_async_no_retry_after_the_first_token(
    scripted: Any, aclient: AsyncClient, wire: Any
) -> None:
    scripted.handlers["GenerateStream"] = breaks_after_a_token(wire)
    with pytest.raises(understudy.UnavailableError):
        async for _ in aclient.stream("x"):
            pass
    assert scripted.count("GenerateStream") == 1


async def test_async_close_cancels_at_the_server(
    scripted: Any, aclient: AsyncClient, wire: Any
) -> None:
    ended = threading.Event()
    scripted.handlers["GenerateStream"] = wire.endless_stream(ended.set)
    async with aclient.stream("x") as stream:
        await anext(stream)
    assert await asyncio.to_thread(ended.wait, 5)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_async_close_from_another_task(scripted: Any, aclient: AsyncClient) -> None:
    released = threading.Event()

    def hang(_: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        context.add_callback(released.set)
        released.wait(10)
        yield from ()

    scripted.handlers["GenerateStream"] = hang
    stream = aclient.stream("x")
    asyncio.get_running_loop().call_later(0.1, lambda: asyncio.ensure_future(stream.aclose()))
    with pytest.raises(understudy.CancelledError):
        await anext(stream)


async def test_async_cancelled_task_cancels_the_call(
    scripted: Any, aclient: AsyncClient, wire: Any
) -> None:
    ended = threading.Event()
    scripted.handlers["GenerateStream"] = wire.endless_stream(ended.set)

    async def read() -> None:
        async for _ in aclient.stream("x"):
            pass

    task = asyncio.ensure_future(read())
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, 5)


async def test_async_unary_cancelled_by_its_task(scripted: Any, aclient: AsyncClient) -> None:
    gone = threading.Event()

    def hang(_: Any, context: grpc.ServicerContext) -> None:
        context.add_callback(gone.set)
        gone.wait(10)

    scripted.handlers["Generate"] = hang
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await aclient.generate("x")
    assert await asyncio.to_thread(gone.wait, 5)
