"""The synchronous client. Safe to share between threads."""

import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self, Unpack

import grpc
from grpc_health.v1.health_pb2_grpc import HealthStub

from understudy import _decode, _encode
from understudy._adapters import AdapterClient
from understudy._batch import BatchItem, BatchStream, Window
from understudy._channel import ChannelConfig, open_channel
from understudy._health import POLL_S, Readiness
from understudy._retry import USE_CLIENT_DEFAULT, RetryPolicy, Timeout
from understudy._stream import GenerationReader, Stream
from understudy._unary import CallConfig, Caller
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


class Client:
    """A connection to one Understudy server.

    Every method raises UnderstudyError (drawn in `understudy.errors`). `timeout` is in seconds
    and covers a call with its retries; leave it out for the client's own, give None for no
    deadline. `adapter` is `name`, `name@version` or `name@alias`; empty is the bare base.
    """

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
        self._caller = Caller(config)
        self._channel = open_channel(address, channel or ChannelConfig())
        self._stub = GenerationServiceStub(self._channel)
        self._health = HealthStub(self._channel)
        self.adapters = AdapterClient(self._channel, self._caller)

    def generate(
        self,
        input: Input | GenerateRequest,
        *,
        timeout: Timeout = USE_CLIENT_DEFAULT,
        **options: Unpack[GenerateOptions],
    ) -> GenerateResult:
        """Generates and answers at the end. `options` are the fields of GenerateRequest."""
        request = _encode.generate_request(input, options)
        answer = self._caller.call(self._stub.Generate, request, timeout)
        return _decode.generate_result(answer)

    def stream(
        self,
        input: Input | GenerateRequest,
        *,
        timeout: Timeout = USE_CLIENT_DEFAULT,
        **options: Unpack[GenerateOptions],
    ) -> Stream[StreamEvent]:
        """Generates and hands out the text as it comes; the call is under way on return."""
        message = _encode.generate_request(input, options)
        request = generation_pb.GenerateStreamRequest(request=message)
        return Stream(
            lambda seconds: self._stub.GenerateStream(
                request, timeout=seconds, metadata=self._caller.config.metadata
            ),
            self._caller.config.attempts(timeout),
            GenerationReader(),
        )

    def batch_generate(
        self,
        requests: Iterable[BatchItem],
        *,
        max_in_flight: int = 64,
        timeout: Timeout = USE_CLIENT_DEFAULT,
    ) -> BatchStream:
        """Generates for `(key, request)` pairs and answers in the order they finish.

        At most `max_in_flight` requests are sent whose answers have not been taken. `timeout` is
        the longest wait for the next answer, since a batch's length is not known.
        """
        window = Window(max_in_flight, self._caller.config.timeout(timeout))
        method = self._stub.BatchGenerate
        return BatchStream(method, requests, window, max_in_flight, self._caller.config.metadata)

    def score(
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
        """Log-likelihood of each continuation of one context."""
        request = _encode.score_request(
            context,
            continuations,
            adapter=adapter,
            token_logprobs=token_logprobs,
            priority=priority,
            tenant=tenant,
            request_id=request_id,
        )
        answer = self._caller.call(self._stub.Score, request, timeout)
        return _decode.score_result(answer, len(continuations))

    def classify(
        self,
        input: Input,
        *,
        adapter: str,
        priority: int | None = None,
        tenant: str = "",
        request_id: str = "",
        timeout: Timeout = USE_CLIENT_DEFAULT,
    ) -> ClassifyResult:
        """Label probabilities from an adapter with a sequence-classification head."""
        request = _encode.classify_request(
            input, adapter=adapter, priority=priority, tenant=tenant, request_id=request_id
        )
        answer = self._caller.call(self._stub.Classify, request, timeout)
        return _decode.classify_result(answer)

    def tokenize(
        self, input: Input, *, adapter: str = "", timeout: Timeout = USE_CLIENT_DEFAULT
    ) -> TokenizeResult:
        """The tokens that a request with this input would run."""
        request = _encode.tokenize_request(input, adapter)
        answer = self._caller.call(self._stub.Tokenize, request, timeout)
        return _decode.tokenize_result(answer)

    def model_info(self, *, timeout: Timeout = USE_CLIENT_DEFAULT) -> ModelInfo:
        """What the server holds: base, quantization, limits."""
        request = generation_pb.GetModelInfoRequest()
        answer = self._caller.call(self._stub.GetModelInfo, request, timeout)
        return _decode.model_info(answer)

    def wait_ready(self, *, timeout: Timeout = USE_CLIENT_DEFAULT) -> None:
        """Returns once the health service answers SERVING; UnavailableError if it never does."""
        readiness = Readiness(self.address, self._caller.config.attempts(timeout))
        while True:
            seconds = readiness.check_timeout_s()
            try:
                outcome = self._health.Check(
                    readiness.request, timeout=seconds, metadata=self._caller.config.metadata
                )
            except grpc.RpcError as error:
                outcome = error
            if readiness.is_ready(outcome):
                return
            time.sleep(POLL_S)

    def close(self) -> None:
        """Closes the connection; calls under way end with CancelledError."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
