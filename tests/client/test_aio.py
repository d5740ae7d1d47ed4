"""The asynchronous twin: same methods, same answers, same policy."""

import asyncio
import inspect
import threading
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

import understudy
from understudy import AsyncAdapterClient, AsyncClient, Client
from understudy._adapters import AdapterClient
from understudy.v1 import adapter_service_pb2 as adapter_pb
from understudy.v1 import generation_service_pb2 as generation_pb
from understudy.v1 import types_pb2 as types_pb


@pytest.mark.parametrize(
    ("sync", "aio"), [(Client, AsyncClient), (AdapterClient, AsyncAdapterClient)]
)
def test_twins_have_the_same_methods_and_parameters(sync: type, aio: type) -> None:
    def public(kind: type) -> dict[str, list[tuple[str, Any]]]:
        return {
            name: [(p.name, p.default) for p in inspect.signature(method).parameters.values()]
            for name, method in vars(kind).items()
            if inspect.isfunction(method) and not name.startswith("_")
        }

    assert public(sync) == public(aio)


async def test_every_unary_call(scripted: Any, aclient: AsyncClient, wire: Any) -> None:
    adapter = types_pb.Adapter(name="a", version="v")
    scripted.handlers |= {
        "Generate": wire.failing_first(2, wire.echo, wire.unavailable),
        "Score": lambda *_: generation_pb.ScoreResponse(
            scores=[generation_pb.ContinuationScore(logprob=-1.0, num_tokens=1)]
        ),
        "Classify": lambda *_: generation_pb.ClassifyResponse(),
        "Tokenize": lambda *_: generation_pb.TokenizeResponse(token_ids=[1], tokens=["x"]),
        "GetModelInfo": lambda *_: generation_pb.GetModelInfoResponse(base_model="nano"),
        "GetAdapter": lambda *_: adapter_pb.GetAdapterResponse(adapter=adapter),
        "LoadAdapter": lambda *_: adapter_pb.LoadAdapterResponse(adapter=adapter),
        "UnloadAdapter": lambda *_: adapter_pb.UnloadAdapterResponse(num_leases=3),
        "PinAdapter": lambda *_: adapter_pb.PinAdapterResponse(adapter=adapter),
        "SetAlias": lambda *_: adapter_pb.SetAliasResponse(adapter=adapter),
    }
    assert (await aclient.generate("x", adapter="a")).text == "x"
    assert scripted.count("Generate") == 3
    assert (await aclient.score("c", ["d"])).scores[0].logprob == -1.0
    assert (await aclient.classify("x", adapter="a")).labels == ()
    assert (await aclient.tokenize("x")).tokens == ("x",)
    assert (await aclient.model_info()).base_model == "nano"
    assert (await aclient.adapters.get("a")).manifest is None
    assert (await aclient.adapters.load("a")).adapter.version == "v"
    assert await aclient.adapters.unload("a") == 3
    assert (await aclient.adapters.pin("a")).name == "a"
    assert (await aclient.adapters.set_alias("a", "b", "v")).name == "a"


async def test_many_calls_at_once(scripted: Any, aclient: AsyncClient, wire: Any) -> None:
    scripted.handlers["Generate"] = wire.echo
    results = await asyncio.gather(*(aclient.generate(f"{i}") for i in range(50)))
    assert [r.text for r in results] == [f"{i}" for i in range(50)]


async def test_list_pages(scripted: Any, aclient: AsyncClient) -> None:
    def pages(request: adapter_pb.ListAdaptersRequest, _: Any) -> Any:
        last = request.page_token == "2"
        return adapter_pb.ListAdaptersResponse(
            adapters=[types_pb.Adapter(name="b" if last else "a")],
            next_page_token="" if last else "2",
        )

    scripted.handlers["ListAdapters"] = pages
    assert [a.name async for a in aclient.adapters.list()] == ["a", "b"]


async def test_watch(scripted: Any, aclient: AsyncClient) -> None:
    change = adapter_pb.WatchAdaptersResponse(change=adapter_pb.ADAPTER_CHANGE_TIER)
    scripted.handlers["WatchAdapters"] = lambda *_: iter([change])
    async with aclient.adapters.watch(timeout=5) as events:
        assert [e.change.value async for e in events] == ["tier"]


async def test_deadline(scripted: Any, aclient: AsyncClient) -> None:
    gone = threading.Event()

    def hang(_: Any, context: grpc.ServicerContext) -> None:
        context.add_callback(gone.set)
        gone.wait(10)

    scripted.handlers["Generate"] = hang
    with pytest.raises(understudy.DeadlineExceededError):
        await aclient.generate("x", timeout=0.2)
    assert await asyncio.to_thread(gone.wait, 5)


async def test_closing_the_client_ends_its_calls(scripted: Any) -> None:
    gone = threading.Event()

    def hang(_: Any, context: grpc.ServicerContext) -> None:
        context.add_callback(gone.set)
        gone.wait(10)

    scripted.handlers["Generate"] = hang
    client = AsyncClient(scripted.address)
    call = asyncio.ensure_future(client.generate("x"))
    await asyncio.sleep(0.2)
    await client.close()
    with pytest.raises(understudy.CancelledError):
        await call
    assert await asyncio.to_thread(gone.wait, 5)


async def test_wait_ready(scripted: Any, aclient: AsyncClient) -> None:
    scripted.readiness.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    with pytest.raises(understudy.UnavailableError, match="NOT_SERVING"):
        await aclient.wait_ready(timeout=0.3)
    waiting = asyncio.ensure_future(aclient.wait_ready(timeout=10))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    scripted.readiness.set("", health_pb2.HealthCheckResponse.SERVING)
    await waiting


def test_wait_ready_of_the_synchronous_client(scripted: Any, client: Client) -> None:
    client.wait_ready(timeout=5)
    scripted.readiness.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    with pytest.raises(understudy.UnavailableError, match="NOT_SERVING"):
        client.wait_ready(timeout=0.3)
    with Client("127.0.0.1:1") as nobody, pytest.raises(understudy.UnavailableError, match="ready"):
        nobody.wait_ready(timeout=0.3)
