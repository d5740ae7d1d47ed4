"""A real gRPC server in this process whose answers each test scripts."""

import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from grpc_status import rpc_status

from understudy import AsyncClient, Client, RetryPolicy
from understudy.__main__ import main
from understudy.v1 import adapter_service_pb2_grpc, generation_service_pb2_grpc
from understudy.v1 import generation_service_pb2 as generation_pb
from understudy.v1 import types_pb2 as types_pb

Handler = Callable[[Any, grpc.ServicerContext], Any]

GENERATION_UNARY = ("Generate", "Score", "Classify", "Tokenize", "GetModelInfo")
GENERATION_STREAMS = ("GenerateStream", "BatchGenerate")
ADAPTER_UNARY = (
    "ListAdapters",
    "GetAdapter",
    "LoadAdapter",
    "UnloadAdapter",
    "PinAdapter",
    "SetAlias",
)
ADAPTER_STREAMS = ("WatchAdapters",)


@dataclass
class ScriptedServer:
    """Answers every method with the handler under its name; records what arrived."""

    handlers: dict[str, Handler] = field(default_factory=dict)
    requests: dict[str, list[Any]] = field(default_factory=dict)
    time_left_s: dict[str, list[float | None]] = field(default_factory=dict)
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)
    address: str = ""
    readiness: HealthServicer = field(default_factory=HealthServicer)

    def count(self, method: str) -> int:
        """Calls of a method so far."""
        return len(self.requests.get(method, []))

    def arrive(self, method: str, request: Any, context: grpc.ServicerContext) -> Handler:
        self.requests.setdefault(method, []).append(request)
        self.time_left_s.setdefault(method, []).append(context.time_remaining())
        self.metadata[method] = dict(context.invocation_metadata())
        if method not in self.handlers:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not scripted")
        return self.handlers[method]

    def unary(self, method: str) -> Handler:
        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            return self.arrive(method, request, context)(request, context)

        return handle

    def streaming(self, method: str) -> Handler:
        def handle(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            yield from self.arrive(method, request, context)(request, context)

        return handle


def abort(
    context: grpc.ServicerContext, code: grpc.StatusCode, text: str, *details: Message
) -> None:
    """Ends a call with a google.rpc status."""
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    status = status_pb2.Status(code=code.value[0], message=text, details=packed)
    context.abort_with_status(rpc_status.to_status(status))


def failing_first(num: int, then: Handler, fail: Handler) -> Handler:
    """A handler that fails `num` times and then works."""
    calls = iter(range(1_000_000))

    def handle(request: Any, context: grpc.ServicerContext) -> Any:
        return fail(request, context) if next(calls) < num else then(request, context)

    return handle


def unavailable(_: Any, context: grpc.ServicerContext) -> Any:
    context.abort(grpc.StatusCode.UNAVAILABLE, "draining")


def unavailable_stream(_: Any, context: grpc.ServicerContext) -> Iterator[Any]:
    yield started("old")
    context.abort(grpc.StatusCode.UNAVAILABLE, "draining")


def response(text: str) -> generation_pb.GenerateResponse:
    generation = generation_pb.Generation(
        text=text, token_ids=[1, 2], finish_reason=types_pb.FINISH_REASON_EOS
    )
    usage = types_pb.Usage(num_prompt_tokens=3, num_completion_tokens=2, queue_s=0.25)
    return generation_pb.GenerateResponse(
        request_id="r1",
        adapter=types_pb.AdapterRef(name="a", version="v"),
        generations=[generation],
        usage=usage,
    )


def echo(request: generation_pb.GenerateRequest, _: Any) -> generation_pb.GenerateResponse:
    return response(request.input.text)


def started(version: str) -> generation_pb.GenerateStreamResponse:
    reference = types_pb.AdapterRef(name="a", version=version)
    return generation_pb.GenerateStreamResponse(
        started=generation_pb.StreamStarted(request_id="r1", adapter=reference, num_prompt_tokens=3)
    )


def delta(text: str) -> generation_pb.GenerateStreamResponse:
    return generation_pb.GenerateStreamResponse(
        delta=generation_pb.StreamDelta(text=text, token_ids=[7])
    )


def finished() -> generation_pb.GenerateStreamResponse:
    generation = generation_pb.Generation(finish_reason=types_pb.FINISH_REASON_LENGTH)
    return generation_pb.GenerateStreamResponse(
        finished=generation_pb.StreamFinished(generations=[generation])
    )


def words_stream(version: str = "v", *words: str) -> Handler:
    """A stream of these words."""

    def handle(_: Any, __: grpc.ServicerContext) -> Iterator[Any]:
        yield started(version)
        for word in words:
            yield delta(word)
        yield finished()

    return handle


def endless_stream(ended: Callable[[], None]) -> Handler:
    """A stream that goes on until its client is gone, then calls `ended`."""

    def handle(_: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        context.add_callback(ended)
        yield started("v")
        while context.is_active():
            yield delta("x")
            time.sleep(0.01)

    return handle


@pytest.fixture
def wire() -> ModuleType:
    """This module: test modules have no package to import it from."""
    return sys.modules[__name__]


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    """A running server; UNIMPLEMENTED until a test scripts a method."""
    script = ScriptedServer()

    def servicer(base: type, unary: tuple[str, ...], streams: tuple[str, ...]) -> Any:
        handlers = {name: staticmethod(script.unary(name)) for name in unary}
        handlers |= {name: staticmethod(script.streaming(name)) for name in streams}
        return type(f"Scripted{base.__name__}", (base,), handlers)()

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(
        servicer(
            generation_service_pb2_grpc.GenerationServiceServicer,
            GENERATION_UNARY,
            GENERATION_STREAMS,
        ),
        server,
    )
    adapter_service_pb2_grpc.add_AdapterServiceServicer_to_server(
        servicer(adapter_service_pb2_grpc.AdapterServiceServicer, ADAPTER_UNARY, ADAPTER_STREAMS),
        server,
    )
    health_pb2_grpc.add_HealthServicer_to_server(script.readiness, server)
    script.readiness.set("", health_pb2.HealthCheckResponse.SERVING)
    script.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield script
    server.stop(None).wait()


FAST = RetryPolicy(max_attempts=4, initial_backoff_s=0.005, max_backoff_s=0.01)


@pytest.fixture
def client(scripted: ScriptedServer) -> Iterator[Client]:
    with Client(scripted.address, timeout=10.0, retry=FAST) as client:
        yield client


@pytest.fixture
async def aclient(scripted: ScriptedServer) -> Any:
    async with AsyncClient(scripted.address, timeout=10.0, retry=FAST) as client:
        yield client


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(scripted: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs one command line in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("UNDERSTUDY_SERVER", scripted.address)

    def run(*argv: str) -> tuple[int, str, str]:
        try:
            code = main(argv)
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
