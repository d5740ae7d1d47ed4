"""A generation server of its own process that answers everything with the same words.

Run as a program, it prints its port. It takes nothing but time off the machine: what a run against
it costs is the suite's own.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from understudy.v1 import generation_service_pb2 as pb
from understudy.v1 import generation_service_pb2_grpc as generation_grpc
from understudy.v1 import types_pb2 as types_pb

TEXT = "x y z"
STREAM_S = 0.02


class Canned(generation_grpc.GenerationServiceServicer):
    async def GetModelInfo(self, request: Any, context: Any) -> Any:
        return pb.GetModelInfoResponse(
            base_model="canned",
            base_fingerprint="c" * 64,
            quantization="nf4",
            max_context_tokens=1000,
            max_batch_size=64,
        )

    def __init__(self) -> None:
        self._one_at_a_time = asyncio.Lock()

    async def GenerateStream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Twenty milliseconds each, one after the other; an adapter `gone` is not there."""
        asked = request.request
        if asked.adapter == "gone":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no adapter 'gone'")
        async with self._one_at_a_time:
            await asyncio.sleep(STREAM_S)
        started = pb.StreamStarted(request_id="r", num_prompt_tokens=7)
        yield pb.GenerateStreamResponse(started=started)
        yield pb.GenerateStreamResponse(delta=pb.StreamDelta(text=TEXT, token_ids=[1, 2]))
        generation = pb.Generation(finish_reason=types_pb.FINISH_REASON_EOS)
        usage = types_pb.Usage(num_prompt_tokens=7, num_completion_tokens=2, max_batch_size=1)
        finished = pb.StreamFinished(generations=[generation], usage=usage)
        yield pb.GenerateStreamResponse(finished=finished)

    async def BatchGenerate(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            generation = pb.Generation(text=TEXT, finish_reason=types_pb.FINISH_REASON_EOS)
            usage = types_pb.Usage(num_prompt_tokens=7, num_completion_tokens=2, total_s=0.001)
            response = pb.GenerateResponse(generations=[generation], usage=usage)
            yield pb.BatchGenerateResponse(key=request.key, response=response)


async def main() -> None:
    server = grpc.aio.server()
    canned = Canned()  # type: ignore[abstract]  # what it lacks is UNIMPLEMENTED
    generation_grpc.add_GenerationServiceServicer_to_server(canned, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
