"""BatchGenerate: out of order, bounded, one failure stops nothing."""

import itertools
import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from server.config import AdaptersConfig, EngineConfig
from tests.server.rpc.conftest import Server, StartServer, request_for
from understudy.v1 import generation_service_pb2 as gpb
from understudy.v1 import types_pb2 as tpb


def item(key: str, adapter: str = "", num_tokens: int = 4) -> gpb.BatchGenerateRequest:
    stopping = tpb.StoppingParams(max_tokens=num_tokens, ignore_eos=True)
    return gpb.BatchGenerateRequest(
        key=key, request=request_for(adapter=adapter, stopping=stopping)
    )


def test_answers_carry_keys_and_errors_stand_alone(shared: Server) -> None:
    requests = [item("long", num_tokens=200), item("short"), item("bad", "nobody"), item("")]
    requests.append(item("lora", "pirate"))
    answers = list(shared.generation.BatchGenerate(iter(requests), timeout=60))
    outcome = {answer.key: answer for answer in answers}
    assert set(outcome) == {"long", "short", "bad", "", "lora"}
    assert answers[-1].key == "long"
    assert outcome["bad"].error.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert "nobody" in outcome["bad"].error.message
    assert outcome[""].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert len(outcome["long"].response.generations[0].token_ids) == 200
    assert outcome["lora"].response.adapter.name == "pirate"


def test_a_key_in_flight_is_refused(shared: Server) -> None:
    answers = list(
        shared.generation.BatchGenerate(iter([item("a", num_tokens=100), item("a")]), timeout=60)
    )
    assert [answer.WhichOneof("outcome") for answer in answers] == ["error", "response"]


def test_the_stream_is_read_as_fast_as_it_is_answered(shared: Server) -> None:
    """The client may send at most max_in_flight (4) ahead, whatever gRPC buffers."""
    release = threading.Event()
    most_running = 0

    def requests() -> Iterator[gpb.BatchGenerateRequest]:
        yield from (item(str(number), num_tokens=30) for number in range(24))

    answers = []
    for answer in shared.generation.BatchGenerate(requests(), timeout=60):
        stats = shared.app.engine.stats()
        most_running = max(most_running, stats.num_running + stats.num_waiting)
        answers.append(answer.key)
    release.set()
    assert sorted(answers, key=int) == [str(number) for number in range(24)]
    assert 1 <= most_running <= 4


def test_a_full_queue_is_waited_out(start_server: StartServer) -> None:
    server = start_server(engine=EngineConfig(max_batch_size=1, max_queue_size=1, num_blocks=256))
    requests = [item(str(number)) for number in range(6)]
    answers = list(server.generation.BatchGenerate(iter(requests), timeout=60))
    assert {answer.WhichOneof("outcome") for answer in answers} == {"response"}
    assert len(answers) == 6


def test_cancelling_the_stream_cancels_what_runs(start_server: StartServer) -> None:
    server = start_server(adapters=AdaptersConfig())

    def requests() -> Iterator[gpb.BatchGenerateRequest]:
        yield from (item(str(number), num_tokens=1900) for number in range(4))
        yield from iter(itertools.repeat(item("x"), 0))

    call = server.generation.BatchGenerate(requests(), timeout=60)
    while server.app.engine.stats().num_running < 4:
        time.sleep(0.01)
    call.cancel()
    with pytest.raises(grpc.RpcError):
        list(call)
    deadline = time.monotonic() + 10
    while server.app.engine.stats().num_running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.app.engine.stats().num_running == 0
    assert server.sample("understudy_requests_ended_total", outcome="cancelled") == 4
