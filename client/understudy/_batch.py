"""BatchGenerate, in both colours: many generations over one call, answered in any order.

At most `max_in_flight` requests are sent whose answers the caller has not taken yet, so neither a
slow caller nor a slow server lets memory grow. The call is not retried: when it breaks, iterating
raises, and `unanswered` names what is left to send again.
"""

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc

from understudy import _decode, _encode
from understudy._unary import Metadata, raise_unless_task_cancelled
from understudy.errors import (
    DeadlineExceededError,
    InternalError,
    from_rpc_error,
    invalid_argument,
)
from understudy.types import BatchResult, GenerateRequest
from understudy.v1.generation_service_pb2 import BatchGenerateRequest, BatchGenerateResponse

if TYPE_CHECKING:
    from grpc import StreamStreamMultiCallable, _CallIterator
    from grpc.aio import StreamStreamMultiCallable as AioStreamStreamMultiCallable

BatchItem = tuple[str, GenerateRequest]
"""A key, unique among the requests in flight, and the request."""


class Window:
    """The requests in flight, and why sending stopped if it failed."""

    def __init__(self, max_in_flight: int, timeout_s: float | None) -> None:
        if max_in_flight < 1:
            raise invalid_argument("max_in_flight", f"{max_in_flight} is not above 0")
        self.timeout_s = timeout_s
        self.source_error: Exception | None = None
        self._pending: dict[str, None] = {}
        self._progress_s = time.monotonic()

    @property
    def unanswered(self) -> tuple[str, ...]:
        """Keys sent and not answered, oldest first."""
        return tuple(self._pending)

    def admit(self, item: BatchItem) -> BatchGenerateRequest:
        """The message to send for `item`. Raises InvalidArgumentError for a key in flight."""
        key, request = item
        if key in self._pending:
            raise invalid_argument("key", f"{key!r} is in flight already")
        message = BatchGenerateRequest(key=key, request=_encode.generate_request(request, {}))
        self._pending[key] = None
        self._progress_s = time.monotonic()
        return message

    def settle(self, message: BatchGenerateResponse) -> BatchResult:
        """The answer in `message`. Raises InternalError if nothing asked for it."""
        if message.key not in self._pending:
            raise InternalError(f"the server answered {message.key!r}, which is not in flight")
        del self._pending[message.key]
        return _decode.batch_result(message)

    def finish(self) -> None:
        """The server ended the call. Raises what ended it early, if something did."""
        if self.source_error is not None:
            raise self.source_error
        if self._pending:
            raise InternalError(
                f"the server ended the batch with {len(self._pending)} requests unanswered"
            )

    def wait_started(self) -> None:
        """The caller begins to wait for an answer; time it spent elsewhere does not count."""
        self._progress_s = time.monotonic()

    def patience_s(self) -> float | None:
        """Seconds to wait for the next answer. Raises DeadlineExceededError when used up."""
        if self.timeout_s is None:
            return None
        if not self._pending:
            return self.timeout_s
        left = self._progress_s + self.timeout_s - time.monotonic()
        if left <= 0:
            raise DeadlineExceededError(
                f"no answer within {self.timeout_s:g} s, {len(self._pending)} requests in flight"
            )
        return left


class BatchStream:
    """Answers of a batch, in the order they finish.

    `close`, or leaving the `with` block, cancels what is in flight. `requests` is iterated by
    another thread; what it raises is raised here, after the answers to what was sent before.
    """

    def __init__(
        self,
        method: "StreamStreamMultiCallable[BatchGenerateRequest, BatchGenerateResponse]",
        requests: Iterable[BatchItem],
        window: Window,
        max_in_flight: int,
        metadata: Metadata,
    ) -> None:
        self._window = window
        self._room = threading.Semaphore(max_in_flight)
        self._closed = threading.Event()
        self._answers: queue.SimpleQueue[BatchGenerateResponse | grpc.RpcError | None] = (
            queue.SimpleQueue()
        )
        sender = _send(iter(requests), window, self._room, self._closed)
        self._call = method(sender, metadata=metadata)
        threading.Thread(
            target=_receive, args=(self._call, self._answers), name="understudy-batch", daemon=True
        ).start()

    @property
    def unanswered(self) -> tuple[str, ...]:
        """Keys sent and not answered, oldest first."""
        return self._window.unanswered

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> BatchResult:
        if self._closed.is_set():
            raise StopIteration
        try:
            result = self._window.settle(self._next_message())
        except BaseException:
            self.close()
            raise
        self._room.release()
        return result

    def _next_message(self) -> BatchGenerateResponse:
        self._window.wait_started()
        while True:
            try:
                answer = self._answers.get(timeout=self._window.patience_s())
            except queue.Empty:
                continue
            if answer is None:
                self._window.finish()
                raise StopIteration
            if isinstance(answer, grpc.RpcError):
                raise from_rpc_error(answer) from answer
            return answer

    def close(self) -> None:
        """Cancels the call if it is not finished. May be called more than once, by any thread."""
        self._closed.set()
        self._room.release()
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

    def __del__(self) -> None:
        if hasattr(self, "_call"):
            self.close()


# The two functions below run in threads of their own and hold no reference to the stream, so that
# a stream dropped without `close` is collected, and then closed.


def _send(
    source: Iterator[BatchItem],
    window: Window,
    room: threading.Semaphore,
    closed: threading.Event,
) -> Iterator[BatchGenerateRequest]:
    while True:
        room.acquire()
        if closed.is_set():
            return
        try:
            message = window.admit(next(source))
        except StopIteration:
            return
        except Exception as error:
            window.source_error = error
            return
        yield message


def _receive(
    call: "_CallIterator[BatchGenerateResponse]",
    answers: "queue.SimpleQueue[BatchGenerateResponse | grpc.RpcError | None]",
) -> None:
    try:
        for message in call:
            answers.put(message)
    except grpc.RpcError as error:
        answers.put(error)
    else:
        answers.put(None)


class AsyncBatchStream:
    """As BatchStream, for the event loop: `async for`, `async with`, `await aclose()`."""

    def __init__(
        self,
        method: "AioStreamStreamMultiCallable[BatchGenerateRequest, BatchGenerateResponse]",
        requests: Iterable[BatchItem] | AsyncIterable[BatchItem],
        window: Window,
        max_in_flight: int,
        metadata: Metadata,
    ) -> None:
        self._window = window
        self._room = asyncio.Semaphore(max_in_flight)
        self._closed = False
        self._call = method(self._send(_aiter(requests)), metadata=metadata)

    @property
    def unanswered(self) -> tuple[str, ...]:
        """Keys sent and not answered, oldest first."""
        return self._window.unanswered

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BatchResult:
        if self._closed:
            raise StopAsyncIteration
        try:
            result = self._window.settle(await self._next_message())
        except BaseException:
            await self.aclose()
            raise
        self._room.release()
        return result

    async def _next_message(self) -> BatchGenerateResponse:
        self._window.wait_started()
        reading = asyncio.ensure_future(self._call.read())
        try:
            while True:
                done, _ = await asyncio.wait({reading}, timeout=self._window.patience_s())
                if done:
                    break
            message = reading.result()
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        except asyncio.CancelledError:
            raise_unless_task_cancelled()
            raise
        finally:
            reading.cancel()
        if not isinstance(message, BatchGenerateResponse):
            self._window.finish()
            raise StopAsyncIteration
        return message

    async def _send(self, source: AsyncIterator[BatchItem]) -> AsyncIterator[BatchGenerateRequest]:
        while True:
            await self._room.acquire()
            if self._closed:
                return
            try:
                message = self._window.admit(await anext(source))
            except StopAsyncIteration:
                return
            except Exception as error:
                self._window.source_error = error
                return
            yield message

    async def aclose(self) -> None:
        """Cancels the call if it is not finished. May be called more than once."""
        self._closed = True
        self._room.release()
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


async def _aiter(
    requests: Iterable[BatchItem] | AsyncIterable[BatchItem],
) -> AsyncIterator[BatchItem]:
    if isinstance(requests, AsyncIterable):
        async for item in requests:
            yield item
    else:
        for item in requests:
            yield item
