"""BatchGenerate: many generations over one stream, bounded, answered out of order."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from server.errors import InvalidRequestError, QueueFullError
from server.rpc.status import message_of, row_of
from understudy.v1 import generation_service_pb2 as pb

_LOG = logging.getLogger(__name__)

Generate = Callable[[pb.GenerateRequest], Awaitable[pb.GenerateResponse]]


async def answer_batch(
    requests: AsyncIterator[pb.BatchGenerateRequest], generate: Generate, max_in_flight: int
) -> AsyncGenerator[pb.BatchGenerateResponse, None]:
    """Answers each request as it finishes; one that fails does not stop the others.

    At most `max_in_flight` requests are unanswered at a time: beyond that the stream is not read,
    and gRPC's flow control holds the client back. A full engine queue is waited out. Closing the
    iterator cancels what still runs.
    """
    room = asyncio.Semaphore(max_in_flight)
    answers: asyncio.Queue[pb.BatchGenerateResponse | None] = asyncio.Queue()
    keys: set[str] = set()

    async def answer(request: pb.BatchGenerateRequest) -> None:
        answers.put_nowait(await _outcome(request, generate))
        keys.discard(request.key)

    async def read(group: asyncio.TaskGroup) -> None:
        await room.acquire()
        async for request in requests:
            if not request.key or request.key in keys:
                problem = "is in flight already" if request.key else "is empty"
                error = InvalidRequestError("key", f"{request.key[:80]!r} {problem}")
                answers.put_nowait(_failure(request.key, error))
            else:
                keys.add(request.key)
                group.create_task(answer(request))
            await room.acquire()

    async def run() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                await read(group)
        finally:
            answers.put_nowait(None)

    running = asyncio.create_task(run())
    try:
        while (outcome := await answers.get()) is not None:
            yield outcome
            room.release()
        await running
    finally:
        running.cancel()


async def _outcome(
    request: pb.BatchGenerateRequest, generate: Generate
) -> pb.BatchGenerateResponse:
    while True:
        try:
            response = await generate(request.request)
        except QueueFullError as error:
            await asyncio.sleep(error.retry_delay_s)
        except Exception as error:
            return _failure(request.key, error)
        else:
            return pb.BatchGenerateResponse(key=request.key, response=response)


def _failure(key: str, error: Exception) -> pb.BatchGenerateResponse:
    code = row_of(error).code
    if message_of(error) != str(error):
        _LOG.error("request %r of a batch failed", key, exc_info=error)
    return pb.BatchGenerateResponse(
        key=key, error=pb.BatchError(code=code.value[0], message=message_of(error))
    )
