"""Generate calls that are awaited one by one and travel together, over BatchGenerate streams."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count, cycle

from understudy import AsyncClient, GenerateRequest, GenerateResult
from understudy.errors import CancelledError, InternalError, UnavailableError, UnderstudyError


class BatchDoor:
    """Several streams to one server: a stream takes its messages one after the other."""

    def __init__(self, client: AsyncClient, max_in_flight: int, num_streams: int = 4) -> None:
        self._streams = [_Stream(client, max_in_flight) for _ in range(num_streams)]
        self._turn = cycle(self._streams)

    async def generate(self, request: GenerateRequest) -> GenerateResult:
        """The answer to one request. Raises its UnderstudyError, or what broke the stream."""
        return await next(self._turn).generate(request)

    async def aclose(self) -> None:
        """Ends the streams; what is in flight is cancelled."""
        await asyncio.gather(*(stream.aclose() for stream in self._streams))


class _Stream:
    """One stream, opened with the first request and again after it broke.

    A stream that breaks fails what it had in flight; whoever asked decides about another try.
    """

    def __init__(self, client: AsyncClient, max_in_flight: int) -> None:
        self._client = client
        self._max_in_flight = max_in_flight
        self._keys = count()
        self._waiting: dict[str, asyncio.Future[GenerateResult]] = {}
        self._queue: asyncio.Queue[tuple[str, GenerateRequest]] = asyncio.Queue()
        self._pump: asyncio.Task[None] | None = None

    async def generate(self, request: GenerateRequest) -> GenerateResult:
        key = str(next(self._keys))
        future: asyncio.Future[GenerateResult] = asyncio.get_running_loop().create_future()
        self._waiting[key] = future
        self._queue.put_nowait((key, request))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._answer())
        try:
            return await future
        finally:
            self._waiting.pop(key, None)

    async def aclose(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)

    async def _source(
        self, queue: asyncio.Queue[tuple[str, GenerateRequest]]
    ) -> AsyncIterator[tuple[str, GenerateRequest]]:
        while True:
            key, request = await queue.get()
            if key in self._waiting:
                yield key, request

    async def _answer(self) -> None:
        stream = self._client.batch_generate(
            self._source(self._queue), max_in_flight=self._max_in_flight
        )
        failure: UnderstudyError = CancelledError("the batch was closed")
        try:
            async with stream:
                async for answer in stream:
                    future = self._waiting.get(answer.key)
                    if future is None or future.done():
                        continue
                    if answer.result is not None:
                        future.set_result(answer.result)
                    elif answer.error is not None:
                        future.set_exception(answer.error)
        except InternalError as error:
            # Of the stream, not of a request: a server that stops ends it this way.
            failure = UnavailableError(str(error))
        except UnderstudyError as error:
            failure = error
        finally:
            # Whatever was queued belongs to this stream; a new one starts empty.
            self._queue = asyncio.Queue()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(failure)
