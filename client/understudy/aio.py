"""The asynchronous client. Create and use it within one event loop."""

import asyncio
from collections.abc import AsyncIterable, Iterable, Sequence
from types import TracebackType
from typing import Self, Unpack

import grpc
from grpc_health.v1.health_pb2_grpc import HealthStub

from understudy import _decode, _encode
from understudy._adapters import AsyncAdapterClient
from understudy._batch import AsyncBatchStream, BatchItem, Window
from understudy._channel import ChannelConfig, open_aio_channel
from understudy._health import POLL_S, Readiness
from understudy._retry import USE_CLIENT_DEFAULT, RetryPolicy, Timeout
from understudy._stream import AsyncStream, GenerationReader
from understudy._unary import AsyncCaller, CallConfig
from understudy.types import (
    ClassifyResult,
    Continuation,
    GenerateOptions,
    GenerateRequest,
    GenerateResult,
    Input,
    ModelInfo,
    ScoreResult,
    StreamEvent,
    TokenizeResult,
)
from understudy.v1 import generation_service_pb2 as generation_pb
from understudy.v1.generation_service_pb2_grpc import GenerationServiceStub


class AsyncClient:
    """As Client, for the event loop: methods are awaited, streams are iterated with `async for`."""

    def __init__(
        self,
        address: str,
        *,
        timeout: float | None = 60.0,
        retry: RetryPolicy | None = None,
        channel: ChannelConfig | None = None,
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Connects to `HOST:PORT` with the first call. `metadata` goes along with every call."""
        self.address = address
        config = CallConfig(timeout, retry or RetryPolicy(), tuple(metadata))
        self._caller = AsyncCaller(config)
        self._channel = open_aio_channel(address, channel or ChannelConfig())
        self._stub = GenerationServiceStub(self._channel)
        self._health = HealthStub(self._channel)
        self.adapters = AsyncAdapterClient(self._channel, self._caller)

    async def generate(
        self,
        input: Input | GenerateRequest,
        *,
        timeout: Timeout = USE_CLIENT_DEFAULT,
        **options: Unpack[GenerateOptions],
    ) -> GenerateResult:
        """As Client.generate."""
        request = _encode.generate_request(input, options)
        answer = await self._caller.call(self._stub.Generate, request, timeout)
        return _decode.generate_result(answer)

    def stream(
        self,
        input: Input | GenerateRequest,
        *,
        timeout: Timeout = USE_CLIENT_DEFAULT,
        **options: Unpack[GenerateOptions],
    ) -> AsyncStream[StreamEvent]:
        """As Client.stream."""
        message = _encode.generate_request(input, options)
        request = generation_pb.GenerateStreamRequest(request=message)
        return AsyncStream(
            lambda seconds: self._stub.GenerateStream(
                request, timeout=seconds, metadata=self._caller.config.metadata
            ),
            self._caller.config.attempts(timeout),
            GenerationReader(),
        )

    def batch_generate(
        self,
        requests: Iterable[BatchItem] | AsyncIterable[BatchItem],
        *,
        max_in_flight: int = 64,
        timeout: Timeout = USE_CLIENT_DEFAULT,
    ) -> AsyncBatchStream:
        """As Client.batch_generate."""
        window = Window(max_in_flight, self._caller.config.timeout(timeout))
        method = self._stub.BatchGenerate
        return AsyncBatchStream(
            method, requests, window, max_in_flight, self._caller.config.metadata
        )

    async def score(
        self,
        context: Input,
        continuations: Sequence[Continuation],
        *,
        adapter: str = "",
        token_logprobs: bool = False,
        priority: int | None = None,
        tenant: str = "",
        request_id: str = "",
        timeout: Timeout = USE_CLIENT_DEFAULT,
    ) -> ScoreResult:
        """As Client.score."""
        request = _encode.score_request(
            context,
            continuations,
            adapter=adapter,
            token_logprobs=token_logprobs,
            priority=priority,
            tenant=tenant,
            request_id=request_id,
        )
        answer = await self._caller.call(self._stub.Score, request, timeout)
        return _decode.score_result(answer, len(continuations))

    async def classify(
        self,
        input: Input,
        *,
        adapter: str,
        priority: int | None = None,
        tenant: str = "",
        request_id: str = "",
        timeout: Timeout = USE_CLIENT_DEFAULT,
    ) -> ClassifyResult:
        """As Client.classify."""
        request = _encode.classify_request(
            input, adapter=adapter, priority=priority, tenant=tenant, request_id=request_id
        )
        answer = await self._caller.call(self._stub.Classify, request, timeout)
        return _decode.classify_result(answer)

    async def tokenize(
        self, input: Input, *, adapter: str = "", timeout: Timeout = USE_CLIENT_DEFAULT
    ) -> TokenizeResult:
        """As Client.tokenize."""
        request = _encode.tokenize_request(input, adapter)
        answer = await self._caller.call(self._stub.Tokenize, request, timeout)
        return _decode.tokenize_result(answer)

    async def model_info(self, *, timeout: Timeout = USE_CLIENT_DEFAULT) -> ModelInfo:
        """As Client.model_info."""
        request = generation_pb.GetModelInfoRequest()
        answer = await self._caller.call(self._stub.GetModelInfo, request, timeout)
        return _decode.model_info(answer)

    async def wait_ready(self, *, timeout: Timeout = USE_CLIENT_DEFAULT) -> None:
        """As Client.wait_ready."""
        readiness = Readiness(self.address, self._caller.config.attempts(timeout))
        while True:
            seconds = readiness.check_timeout_s()
            try:
                outcome = await self._health.Check(
                    readiness.request, timeout=seconds, metadata=self._caller.config.metadata
                )
            except grpc.RpcError as error:
                outcome = error
            if readiness.is_ready(outcome):
                return
            await asyncio.sleep(POLL_S)

    async def close(self) -> None:
        """Closes the connection; calls under way end with CancelledError."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
