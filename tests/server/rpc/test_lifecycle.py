"""Cancellation, deadlines, full queues, health, drain, metrics, two servers in one process."""

import asyncio
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from server.adapters import tiers
from server.app import App
from server.app import app as server_app
from server.config import AdaptersConfig, EngineConfig, ListenConfig
from server.errors import StartupError
from server.rpc.leases import AdapterChoice, AnyLease, LeaseDesk
from tests.server.rpc.conftest import (
    LoopThread,
    Server,
    StartServer,
    config_for,
    finish,
    launch,
    request_for,
)
from understudy.v1 import generation_service_pb2 as gpb
from understudy.v1 import types_pb2 as tpb
from understudy.v1.generation_service_pb2_grpc import GenerationServiceStub

Status = health_pb2.HealthCheckResponse


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.01)


def long_request(adapter: str = "", num_tokens: int = 1900) -> gpb.GenerateRequest:
    stopping = tpb.StoppingParams(max_tokens=num_tokens, ignore_eos=True)
    return request_for(adapter=adapter, stopping=stopping)


def stream(server: Server, request: gpb.GenerateRequest, timeout: float = 60.0):  # type: ignore[no-untyped-def]
    call = server.generation.GenerateStream(
        gpb.GenerateStreamRequest(request=request), timeout=timeout
    )
    assert next(call).WhichOneof("event") == "started"
    return call


def health(channel: grpc.Channel, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30).status


def idle(server: Server) -> bool:
    stats = server.app.engine.stats()
    leases = server.sample("understudy_leases")
    return stats.num_running == stats.num_waiting == stats.num_used_blocks == leases == 0


def test_cancelling_a_stream_frees_all_it_held(
    start_server: StartServer, shared_folders: tuple[Path, Path]
) -> None:
    server = start_server(adapters=AdaptersConfig(store=shared_folders[0]))
    call = stream(server, long_request("pirate"))
    next(call)
    assert server.sample("understudy_leases") == 1
    assert server.app.engine.stats().num_running == 1
    call.cancel()
    eventually(lambda: idle(server))
    assert server.sample("understudy_requests_ended_total", outcome="cancelled") == 1
    eventually(
        lambda: (
            server.sample(
                "understudy_calls_total",
                method="GenerateStream",
                adapter="pirate",
                code="CANCELLED",
            )
            == 1
        )
    )


def test_cancelling_a_unary_call_frees_all_it_held(shared: Server) -> None:
    call = shared.generation.Generate.future(long_request("polite"), timeout=60)
    eventually(lambda: shared.app.engine.stats().num_running == 1)
    call.cancel()
    eventually(lambda: idle(shared))


def test_deadline_ends_the_request_in_the_engine_too(shared: Server) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        shared.generation.Generate(long_request("pirate"), timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: idle(shared))
    labels = {"method": "Generate", "adapter": "pirate", "code": "DEADLINE_EXCEEDED"}
    eventually(lambda: shared.sample("understudy_calls_total", **labels) == 1)


def test_a_deadline_that_passes_in_the_queue_is_counted(start_server: StartServer) -> None:
    server = start_server(engine=EngineConfig(max_batch_size=1, num_blocks=256))
    running = stream(server, long_request())
    next(running)
    with pytest.raises(grpc.RpcError) as caught:
        server.generation.Generate(request_for(), timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    waits = "understudy_queue_seconds"
    eventually(lambda: server.sample(f"{waits}_count", outcome="deadline") == 1)
    assert server.sample(f"{waits}_count", outcome="started") == 1
    assert 0.05 < server.sample(f"{waits}_sum", outcome="deadline") < 10
    running.cancel()
    eventually(lambda: idle(server))


def test_giving_up_during_a_load_leaves_it_to_the_others(
    start_server: StartServer,
    shared_folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three requests wait for one load; one is cancelled, one is late, the third is answered."""
    server = start_server(adapters=AdaptersConfig(store=shared_folders[0]))
    begun, go_on, load = threading.Event(), threading.Event(), tiers.load_artifact
    num_loads = 0

    def slow_load(*args: Any) -> Any:
        nonlocal num_loads
        num_loads += 1
        begun.set()
        assert go_on.wait(30)
        return load(*args)

    arrivals, acquire = threading.Semaphore(0), LeaseDesk.acquire

    async def noted_acquire(desk: LeaseDesk, adapter: AdapterChoice) -> AnyLease | None:
        arrivals.release()
        return await acquire(desk, adapter)

    monkeypatch.setattr(tiers, "load_artifact", slow_load)
    monkeypatch.setattr(LeaseDesk, "acquire", noted_acquire)
    cancelled, late, patient = (
        server.generation.Generate.future(request_for(adapter="pirate"), timeout=timeout_s)
        for timeout_s in (60, 2, 60)
    )
    # A call given up before it arrives is never the server's.
    for _ in range(3):
        assert arrivals.acquire(timeout=30)
    assert begun.wait(30)
    cancelled.cancel()
    assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    labels = {"method": "Generate", "adapter": "other"}
    eventually(lambda: server.sample("understudy_calls_total", **labels) == 2)
    go_on.set()
    assert patient.result(30).adapter.name == "pirate"
    assert num_loads == 1
    eventually(lambda: idle(server))


def test_full_queue_says_when_to_try_again(start_server: StartServer) -> None:
    server = start_server(engine=EngineConfig(max_batch_size=1, max_queue_size=1, num_blocks=256))
    calls = [stream(server, long_request())]
    # At its second token it has left the queue.
    next(calls[0]), next(calls[0])
    calls.append(stream(server, long_request()))
    with pytest.raises(grpc.RpcError) as caught:
        server.generation.Generate(request_for(), timeout=30)
    error = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    retry = error_details_pb2.RetryInfo()
    assert any(packed.Unpack(retry) for packed in rpc_status.from_call(error).details)
    assert retry.retry_delay.ToMilliseconds() >= 100
    assert server.sample("understudy_queue_rejections_total") == 1
    for call in calls:
        call.cancel()
    eventually(lambda: idle(server))


def test_health_follows_the_servers_life(
    base: Path, loop_thread: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, loading = server_app.load_base, []

    def observed_load(*args: object, **kwargs: object) -> object:
        with grpc.insecure_channel(address[0]) as channel:
            loading.append(health(channel))
            with pytest.raises(grpc.RpcError) as caught:
                GenerationServiceStub(channel).GetModelInfo(gpb.GetModelInfoRequest(), timeout=30)
            loading.append(caught.value.code())
            unknown = channel.unary_unary("/understudy.v1.GenerationService/Unknown17")
            with pytest.raises(grpc.RpcError):
                unknown(b"", timeout=30)
        return load(*args, **kwargs)  # type: ignore[arg-type]

    address: list[str] = []
    listen = server_app.RpcServer.listen

    async def observed_listen(self: server_app.RpcServer) -> None:
        await listen(self)
        address.append(self.address)

    monkeypatch.setattr(server_app, "load_base", observed_load)
    monkeypatch.setattr(server_app.RpcServer, "listen", observed_listen)
    server = launch(base, loop_thread)
    assert loading == [Status.NOT_SERVING, grpc.StatusCode.UNAVAILABLE]
    for service in ("", "understudy.v1.GenerationService", "understudy.v1.AdapterService"):
        assert health(server.channel, service) == Status.SERVING
    assert server.sample("understudy_ready") == 1
    assert server.sample("understudy_calls_total", method="GetModelInfo", code="UNAVAILABLE") == 1
    # Whoever calls names that do not exist makes no series of them.
    assert "Unknown17" not in server.app.metrics.exposition()
    loop_thread.call(server.app.rpc.drain())
    assert health(server.channel) == Status.NOT_SERVING
    assert server.sample("understudy_ready") == 0
    finish(server)


def test_drain_finishes_what_runs_and_refuses_the_rest(base: Path, loop_thread: LoopThread) -> None:
    server = launch(base, loop_thread)
    call = stream(server, long_request(num_tokens=150))
    next(call)
    asked = time.monotonic()
    stopped = [False]

    async def stop() -> None:
        await server.app.stop(30.0)
        stopped[0] = True

    future = asyncio.run_coroutine_threadsafe(stop(), loop_thread.loop)
    eventually(lambda: health(server.channel) == Status.NOT_SERVING)
    with pytest.raises(grpc.RpcError) as caught:
        server.generation.Generate(request_for(), timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not stopped[0]
    events = list(call)
    assert events[-1].WhichOneof("event") == "finished"
    assert events[-1].finished.usage.num_completion_tokens == 150
    future.result(30)
    assert time.monotonic() - asked < 30
    server.channel.close()


def test_drain_gives_up_after_its_time(base: Path, loop_thread: LoopThread) -> None:
    server = launch(base, loop_thread)
    call = stream(server, long_request())
    next(call)
    loop_thread.call(server.app.stop(0.1))
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert server.sample("understudy_requests_ended_total", outcome="draining") == 1
    server.channel.close()


def test_two_servers_in_one_process(start_server: StartServer) -> None:
    one, other = start_server(), start_server()
    assert one.app.address != other.app.address
    assert one.generate().text == other.generate().text
    assert one.generate().text == one.generate().text
    assert one.sample("understudy_calls_total", method="Generate") == 3
    assert other.sample("understudy_calls_total", method="Generate") == 1


@pytest.mark.parametrize("door", ["port", "metrics_port"])
def test_port_in_use_is_told_before_the_base_loads(
    base: Path,
    loop_thread: LoopThread,
    shared: Server,
    monkeypatch: pytest.MonkeyPatch,
    door: str,
) -> None:
    def load(*args: object, **kwargs: object) -> object:
        pytest.fail("the base was loaded")

    monkeypatch.setattr(server_app, "load_base", load)
    assert shared.app.metrics_server is not None
    taken = {
        "port": int(shared.app.address.rpartition(":")[2]),
        "metrics_port": shared.app.metrics_server.port,
    }[door]
    listen = ListenConfig(**{"port": 0, "metrics_port": 0, door: taken})

    async def start() -> None:
        app = App(config_for(base, listen=listen))
        try:
            await app.start()
        finally:
            await app.stop(0.0)

    with pytest.raises(StartupError) as caught:
        loop_thread.call(start())
    flag = door.replace("_", "-")
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{taken}: address already in use; "
        f"choose another with --{flag}, 0 for a free one"
    )


def test_metrics_over_http(shared: Server) -> None:
    shared.generate(adapter="pirate")
    before = shared.sample("understudy_generated_tokens_total", adapter="pirate")
    prompts = shared.sample("understudy_prompt_tokens_total", adapter="pirate")
    shared.generate(adapter="pirate")
    list(stream(shared, request_for(adapter="pirate")))
    assert shared.sample("understudy_generated_tokens_total", adapter="pirate") == before + 16
    assert shared.sample("understudy_prompt_tokens_total", adapter="pirate") > prompts
    with urllib.request.urlopen(shared.app.metrics_url, timeout=10) as response:
        text = response.read().decode()
    for series in (
        "understudy_base_info",
        "understudy_first_token_seconds_bucket",
        "understudy_inter_token_seconds_bucket",
        "understudy_request_seconds_bucket",
        "understudy_step_seconds_bucket",
        "understudy_adapter_load_seconds_count",
        'understudy_adapters{tier="device"}',
        'understudy_adapters{tier="host"}',
        "understudy_blocks_capacity",
    ):
        assert series in text
    assert "python_gc" not in text


def test_unknown_adapters_make_no_series(shared: Server) -> None:
    for number in range(3):
        with pytest.raises(grpc.RpcError):
            shared.generation.Generate(request_for(adapter=f"nobody{number}"), timeout=30)
    assert shared.sample("understudy_calls_total", adapter="nobody0") == 0
    assert shared.sample("understudy_calls_total", adapter="other", code="NOT_FOUND") >= 3


def test_reflection_lists_the_services(shared: Server) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(shared.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=30)
    names = {service.name for service in answer.list_services_response.service}
    assert {"understudy.v1.GenerationService", "understudy.v1.AdapterService"} <= names


def test_a_store_that_is_not_there_is_told(
    start_server: StartServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", "server.app")
    start_server(adapters=AdaptersConfig(store=tmp_path / "stoer"))
    assert f"store {tmp_path / 'stoer'}: no such directory (yet)" in caplog.text
