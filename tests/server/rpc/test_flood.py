"""More calls than the server takes: refused unread, with a delay, and nothing is left of them."""

import threading
from collections.abc import Iterator

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status

from server.config import ListenConfig
from tests.server.rpc.conftest import Server, StartServer, request_for
from tests.server.rpc.test_lifecycle import eventually, health, idle, long_request, stream
from understudy.v1 import generation_service_pb2 as gpb

_MAX_CALLS = 4
# Hundreds of calls beside whatever else the machine does; they wait longer than the test does.
_PATIENCE_S, _CALL_S = 120.0, 240.0


@pytest.fixture
def server(start_server: StartServer) -> Server:
    listen = ListenConfig(port=0, metrics_port=0, drain_s=10.0, max_concurrent_calls=_MAX_CALLS)
    return start_server(listen=listen)


@pytest.fixture
def never() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_too_many_calls_are_refused_with_a_delay(server: Server) -> None:
    calls = [stream(server, long_request()) for _ in range(_MAX_CALLS)]
    for refused in (
        lambda: server.generation.Generate(request_for(), timeout=30),
        lambda: next(server.generation.BatchGenerate(iter(()), timeout=30)),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            refused()
        error = caught.value
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == ("4 calls are open, as many as this server takes; retry in 1.0 s")
        retry = error_details_pb2.RetryInfo()
        assert any(packed.Unpack(retry) for packed in rpc_status.from_call(error).details)
        assert retry.retry_delay.ToMilliseconds() == 1000
    assert health(server.channel) == health_pb2.HealthCheckResponse.SERVING
    assert server.sample("understudy_call_rejections_total") == 2
    for call in calls:
        call.cancel()
    eventually(lambda: idle(server))
    assert len(server.generate().token_ids) == 8


def test_a_flood_of_streams_is_bounded(server: Server, never: threading.Event) -> None:
    def silent() -> Iterator[gpb.BatchGenerateRequest]:
        never.wait(_CALL_S)
        return
        yield

    calls = [server.generation.BatchGenerate(silent(), timeout=_CALL_S) for _ in range(200)]
    eventually(lambda: len(_ended(calls)) >= len(calls) - 2 * _MAX_CALLS, _PATIENCE_S)
    refused = _ended(calls)
    assert len(refused) <= len(calls) - _MAX_CALLS
    assert {call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    never.set()
    for call in calls:
        call.cancel()
    eventually(lambda: idle(server), _PATIENCE_S)
    assert len(server.generate().token_ids) == 8


def test_calls_that_send_nothing_are_bounded(server: Server, never: threading.Event) -> None:
    """A unary call whose request never comes has no handler yet that could count it."""

    def silent() -> Iterator[bytes]:
        never.wait(_CALL_S)
        return
        yield

    generate = server.channel.stream_stream(
        "/understudy.v1.GenerationService/Generate",
        request_serializer=bytes,
        response_deserializer=bytes,
    )
    calls = [generate(silent(), timeout=_CALL_S) for _ in range(50)]
    eventually(lambda: len(_ended(calls)) >= len(calls) - 2 * _MAX_CALLS, _PATIENCE_S)
    refused = _ended(calls)
    assert len(refused) == len(calls) - 2 * _MAX_CALLS
    assert {call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    never.set()
    for call in calls:
        call.cancel()
    # Until the server has heard of it.
    eventually(lambda: _is_answered(server), _PATIENCE_S)


def _is_answered(server: Server) -> bool:
    call = server.generation.Generate.future(request_for(), timeout=30)
    return call.code() is grpc.StatusCode.OK


def _ended(calls: list[grpc.Call]) -> list[grpc.Call]:
    return [call for call in calls if not call.is_active()]
