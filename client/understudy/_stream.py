"""Server streams, in both colours: iterate for events, close to cancel."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import grpc

from understudy import _decode
from understudy._retry import Attempts
from understudy._unary import raise_unless_task_cancelled
from understudy.errors import CancelledError, InternalError, UnderstudyError, from_rpc_error
from understudy.types import AdapterEvent, StreamEvent, StreamFinished, StreamStarted
from understudy.v1 import adapter_service_pb2, generation_service_pb2

if TYPE_CHECKING:
    from grpc import _CallIterator
    from grpc.aio import UnaryStreamCall

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Reader(Protocol[T_co]):
    """Turns a stream's messages into events and knows when it may still be started again."""

    @property
    def committed(self) -> bool:
        """Whether an event has been handed out, so that a retry would repeat it."""

    def push(self, message: Any) -> Iterable[T_co]:
        """The events to hand out after `message`."""

    def finish(self) -> None:
        """The server ended the stream. Raises InternalError if it may not end here."""


class GenerationReader:
    """Events of GenerateStream.

    `StreamStarted` waits for the event after it: an attempt that fails before its first token is
    repeated, and the one that succeeds says which adapter version answers.
    """

    def __init__(self) -> None:
        self.committed = False
        self._started: StreamStarted | None = None
        self._finished = False

    def push(self, message: generation_service_pb2.GenerateStreamResponse) -> list[StreamEvent]:
        """See Reader."""
        event = _decode.stream_event(message)
        if event is None:
            return []
        if isinstance(event, StreamStarted):
            self._started = event  # Replaces that of an attempt that failed before its first token.
            return []
        self.committed = True
        self._finished = isinstance(event, StreamFinished)
        events: list[StreamEvent] = [event] if self._started is None else [self._started, event]
        self._started = None
        return events

    def finish(self) -> None:
        """See Reader."""
        if not self._finished:
            raise InternalError("the server ended the stream without its `finished` event")


class WatchReader:
    """Events of WatchAdapters."""

    def __init__(self) -> None:
        self.committed = False

    def push(self, message: adapter_service_pb2.WatchAdaptersResponse) -> list[AdapterEvent]:
        """See Reader."""
        self.committed = True
        return [_decode.adapter_event(message)]

    def finish(self) -> None:
        """See Reader."""


class Stream(Generic[T]):
    """Events of one call, which is under way from the start.

    Iterate once. `close`, or leaving the `with` block, cancels a call that is not finished.
    Iterating raises UnderstudyError; a thread that waits for an event while another one closes
    the stream gets CancelledError.
    """

    def __init__(
        self,
        start: "Callable[[float | None], _CallIterator[Any]]",
        attempts: Attempts,
        reader: Reader[T],
    ) -> None:
        self._start = start
        self._attempts = attempts
        self._reader = reader
        self._events: deque[T] = deque()
        self._closed = threading.Event()
        self._call = start(attempts.remaining_s())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if self._closed.is_set():
            raise StopIteration
        try:
            while not self._events:
                self._receive()
        except BaseException:
            self.close()
            raise
        return self._events.popleft()

    def _receive(self) -> None:
        try:
            message = next(self._call)
        except StopIteration:
            self._reader.finish()
            raise
        except grpc.RpcError as error:
            self._retry(from_rpc_error(error))
        else:
            self._events.extend(self._reader.push(message))

    def _retry(self, error: UnderstudyError) -> None:
        if self._reader.committed:
            raise error
        delay_s = self._attempts.delay_after(error)
        if self._closed.wait(delay_s):
            raise CancelledError("the stream was closed")
        self._call = self._start(self._attempts.remaining_s())
        if self._closed.is_set():
            self._call.cancel()

    def close(self) -> None:
        """Cancels the call if it is not finished. May be called more than once, by any thread."""
        self._closed.set()
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncStream(Generic[T]):
    """As Stream, for the event loop: `async for`, `async with`, `await aclose()`.

    Cancelling the task that iterates cancels the call.
    """

    def __init__(
        self,
        start: "Callable[[float | None], UnaryStreamCall[Any, Any]]",
        attempts: Attempts,
        reader: Reader[T],
    ) -> None:
        self._start = start
        self._attempts = attempts
        self._reader = reader
        self._events: deque[T] = deque()
        self._closed = False
        self._call = start(attempts.remaining_s())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._closed:
            raise StopAsyncIteration
        try:
            while not self._events:
                await self._receive()
        except BaseException:
            await self.aclose()
            raise
        return self._events.popleft()

    async def _receive(self) -> None:
        try:
            message = await self._call.read()
        except grpc.RpcError as error:
            await self._retry(from_rpc_error(error))
            return
        except asyncio.CancelledError:
            raise_unless_task_cancelled()
            raise
        if message is grpc.aio.EOF:
            self._reader.finish()
            raise StopAsyncIteration
        self._events.extend(self._reader.push(message))

    async def _retry(self, error: UnderstudyError) -> None:
        if self._reader.committed:
            raise error
        await asyncio.sleep(self._attempts.delay_after(error))
        if self._closed:
            raise CancelledError("the stream was closed")
        self._call = self._start(self._attempts.remaining_s())

    async def aclose(self) -> None:
        """Cancels the call if it is not finished. May be called more than once."""
        self._closed = True
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
