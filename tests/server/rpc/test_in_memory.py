"""What is in memory: how it is used, pinned and named."""

import threading
import time
from pathlib import Path

import grpc

from tests.server.rpc.conftest import Artifacts, Server
from tests.server.rpc.test_adapters import folders, listed, refused, server
from tests.server.rpc.test_lifecycle import eventually, long_request, stream
from understudy.store import publish
from understudy.v1 import adapter_service_pb2 as apb
from understudy.v1 import types_pb2 as tpb

__all__ = ["folders", "server"]


def test_what_is_pinned_under_an_alias_that_moved(
    server: Server, folders: tuple[Path, Path], artifacts: Artifacts
) -> None:
    first = listed(server, name_prefix="pirate")[0].version
    second = publish(artifacts.lora_v2, folders[0], "pirate")

    def move(version: str) -> None:
        alias = apb.SetAliasRequest(name="pirate", alias="stable", version=version)
        server.adapters.SetAlias(alias, timeout=30)

    def unpin(reference: str) -> tpb.Adapter:
        request = apb.PinAdapterRequest(adapter=reference)
        return server.adapters.PinAdapter(request, timeout=30).adapter

    move(first)
    pin = apb.PinAdapterRequest(adapter="pirate@stable", pinned=True)
    assert server.adapters.PinAdapter(pin, timeout=30).adapter.version == first
    move(second)
    for reference in ("pirate@stable", "pirate"):
        error = refused(server.adapters.PinAdapter, apb.PinAdapterRequest(adapter=reference))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert f"name what to let go: pirate@{first}" in error.details()
    assert {a.version for a in listed(server) if a.pinned} == {first}
    # What was named exactly needs no pin to be let go.
    assert not unpin(f"pirate@{second}").pinned
    assert not unpin(f"pirate@{first}").pinned
    assert not unpin("pirate@stable").pinned
    # The alias means the pinned version again: that is let go.
    assert server.adapters.PinAdapter(pin, timeout=30).adapter.version == second
    assert unpin("pirate@stable").version == second


def test_last_use_and_leases_while_a_stream_runs(server: Server) -> None:
    def shown() -> tpb.Adapter:
        request = apb.GetAdapterRequest(adapter="pirate")
        return server.adapters.GetAdapter(request, timeout=30).adapter

    assert not shown().HasField("last_used_at")
    before = time.time()
    call = stream(server, long_request("pirate"))
    during = shown()
    assert during.num_leases == 1
    assert before <= during.loaded_at.ToNanoseconds() / 1e9 <= time.time()
    assert during.loaded_at.ToNanoseconds() <= during.last_used_at.ToNanoseconds()
    other = stream(server, long_request("pirate"))
    both = shown()
    assert both.num_leases == 2
    assert both.loaded_at == during.loaded_at
    assert both.last_used_at.ToNanoseconds() > during.last_used_at.ToNanoseconds()
    for each in (call, other):
        each.cancel()
    eventually(lambda: shown().num_leases == 0)
    assert shown().last_used_at == both.last_used_at
    # With the memory goes what is known of its use.
    server.adapters.UnloadAdapter(apb.UnloadAdapterRequest(adapter="pirate"))
    assert not shown().HasField("last_used_at")


def test_a_bare_name_whose_version_is_in_memory_does_not_wait_for_a_load(server: Server) -> None:
    version = listed(server, name_prefix="pirate")[0].version
    text = server.generate(adapter=f"pirate@{version}").text
    go_on = threading.Event()
    load = server.app._loader.submit(go_on.wait, 60)
    try:
        assert server.generate(adapter="pirate").text == text
        assert server.sample("understudy_adapter_hits_total", tier="device") == 1
        assert not load.done()
        # It is in use from then on, as one that was loaded.
        (pirate,) = listed(server, name_prefix="pirate")
        assert pirate.current
    finally:
        go_on.set()
