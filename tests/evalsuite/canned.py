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


class Canned(generation_grpc.GenerationServiceServicer):
    async def GetModelInfo(self, request: Any, context: Any) -> Any:
        return pb.GetModelInfoResponse(
            base_model="canned",
            base_fingerprint="c" * 64,
            quantization="nf4",
            max_context_tokens=1000,
            max_batch_size=64,
        )

    async def BatchGenerate(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        async for request in requests:
            generation = pb.Generation(text=TEXT, finish_reason=types_pb.FINISH_REASON_EOS)
            usage = types_pb.Usage(num_prompt_tokens=7, num_completion_tokens=2, total_s=0.001)
            response = pb.GenerateResponse(generations=[generation], usage=usage)
            yield pb.BatchGenerateResponse(key=request.key, response=response)


async def main() -> None:
    server = grpc.aio.server()
    generation_grpc.add_GenerationServiceServicer_to_server(Canned(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
