"""WatchAdapters: what is in memory, then every change in order; slow watchers; the drain."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from server.config import AdaptersConfig, EngineConfig, LimitsConfig
from server.errors import DrainingError, SlowWatcherError
from server.rpc.watch import AdapterFeed, InMemory, Watch
from server.types import AdapterChange, AdapterEvent, Tier
from tests.server.rpc.conftest import Artifacts, LoopThread, Server, StartServer, finish
from tests.server.rpc.test_adapters import copy
from tests.server.rpc.test_lifecycle import eventually, long_request, stream
from understudy import AdapterChange as Change
from understudy import Client, UnavailableError
from understudy.store import publish
from understudy.types import AdapterEvent as ClientEvent
from understudy.v1 import adapter_service_pb2 as apb
from understudy.v1.adapter_service_pb2_grpc import AdapterServiceStub


@pytest.fixture
def folders(artifacts: Artifacts, tmp_path: Path) -> tuple[Path, Path]:
    store, uploads = tmp_path / "store", tmp_path / "uploads"
    publish(artifacts.lora, store, "pirate")
    publish(artifacts.prompt, store, "polite")
    copy(artifacts.lora_v2, uploads / "pirate-v2")
    return store, uploads


@pytest.fixture
def server(start_server: StartServer, folders: tuple[Path, Path]) -> Server:
    return start_server(
        adapters=AdaptersConfig(store=folders[0], roots=(folders[1],)),
        engine=EngineConfig(num_blocks=512, max_batch_size=8, num_adapter_slots=1),
        limits=LimitsConfig(max_watch_events=16),
    )


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.app.address) as client:
        yield client


def short(event: ClientEvent) -> tuple[str, str, str]:
    """What happened, to whom, and where it is."""
    return str(event.change), event.adapter.name, str(event.adapter.tier)


def test_residents_then_changes(server: Server, client: Client, folders: tuple[Path, Path]) -> None:
    client.adapters.pin("polite")
    server.generate(adapter="pirate")
    with client.adapters.watch(timeout=60) as events:
        assert [short(next(events)) for _ in range(3)] == [
            ("resident", "pirate", "device"),
            ("resident", "polite", "host"),
            ("synced", "", "unspecified"),
        ]
        # One slot: polite takes it from pirate.
        server.generate(adapter="polite")
        assert short(next(events)) == ("tier", "pirate", "host")
        placed = next(events)
        assert short(placed) == ("tier", "polite", "device")
        assert placed.adapter.pinned
        assert placed.adapter.num_virtual_tokens == 5
        assert placed.at is not None
        assert abs(placed.at.timestamp() - time.time()) < 60
        client.adapters.pin("polite", pinned=False)
        unpinned = next(events)
        assert short(unpinned) == ("pinned", "polite", "device")
        assert not unpinned.adapter.pinned
        old = client.adapters.get("pirate").adapter.version
        new = client.adapters.load("pirate", source="pirate-v2").adapter.version
        loaded, renamed, gone = (next(events) for _ in range(3))
        assert (short(loaded), loaded.adapter.version) == (("loaded", "pirate", "host"), new)
        assert (short(renamed), renamed.adapter.version) == (("alias", "pirate", "host"), new)
        assert renamed.alias == ""
        assert renamed.adapter.current
        assert (short(gone), gone.adapter.version) == (("tier", "pirate", "disk"), old)
        assert gone.adapter.aliases == ("latest",)
        client.adapters.set_alias("pirate", "stable", old)
        read, stable = next(events), next(events)
        assert (short(read), read.adapter.version) == (("loaded", "pirate", "host"), old)
        assert (short(stable), stable.alias) == (("alias", "pirate", "host"), "stable")
        client.adapters.set_alias("pirate", "stable", "")
        removed = next(events)
        assert (removed.alias, removed.adapter.version) == ("stable", "")
        client.adapters.unload("pirate")
        assert [short(next(events)) for _ in range(2)] == [
            ("unloaded", "pirate", "host"),
            ("tier", "pirate", "disk"),
        ]


def test_a_version_in_use_leaves_with_its_last_request(server: Server, client: Client) -> None:
    call = stream(server, long_request("pirate", num_tokens=200))
    next(call)
    with client.adapters.watch(name_prefix="pi", timeout=60) as events:
        assert [str(next(events).change) for _ in range(2)] == ["resident", "synced"]
        client.adapters.unload("pirate")
        unloaded = next(events)
        assert short(unloaded) == ("unloaded", "pirate", "device")
        assert unloaded.adapter.num_leases == 1
        list(call)
        assert short(next(events)) == ("tier", "pirate", "disk")


def test_only_names_that_are_asked_for(server: Server, client: Client) -> None:
    server.generate(adapter="polite")
    with client.adapters.watch(name_prefix="pir", timeout=60) as events:
        assert str(next(events).change) == "synced"
        for adapter in ("polite", "pirate"):
            server.generate(adapter=adapter)
        assert short(next(events)) == ("loaded", "pirate", "host")


def test_a_slow_watcher_is_told_and_holds_nobody_up(
    server: Server, client: Client, folders: tuple[Path, Path]
) -> None:
    """One that reads nothing at all loses its watch; a faster one misses nothing."""
    seen: list[ClientEvent] = []
    # A window that does not grow: 64 KiB are soon full.
    channel = grpc.insecure_channel(server.app.address, [("grpc.http2.bdp_probe", 0)])
    slow = AdapterServiceStub(channel).WatchAdapters(apb.WatchAdaptersRequest(), timeout=60)

    def watch() -> None:
        with client.adapters.watch(timeout=60) as events:
            for event in events:
                seen.append(event)
                if event.change is Change.UNLOADED:
                    return

    fast = threading.Thread(target=watch)
    fast.start()
    eventually(lambda: len(server.app.feed._watches) == 2 and bool(seen))
    # gRPC takes what its window holds: that, and then some more than the queue does.
    num_changes = 0
    while not any(watch.ended for watch in tuple(server.app.feed._watches)):
        client.adapters.pin("polite", pinned=num_changes % 2 == 0)
        num_changes += 1
        assert num_changes < 20_000
        eventually(lambda least=num_changes - 8: len(seen) > least)
    client.adapters.unload("polite")
    fast.join(30)
    assert not fast.is_alive()
    pins = [e.adapter.pinned for e in seen if e.change is Change.PINNED]
    assert pins == [number % 2 == 0 for number in range(num_changes)]
    with pytest.raises(grpc.RpcError) as caught:
        list(slow)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "watch again" in caught.value.details()
    eventually(lambda: not server.app.feed._watches)
    channel.close()


def test_the_drain_ends_watches(server: Server, client: Client, loop_thread: LoopThread) -> None:
    with client.adapters.watch() as events:
        assert str(next(events).change) == "synced"
        started = time.monotonic()
        finish(server)
        with pytest.raises(UnavailableError, match="shutting down"):
            next(events)
    assert time.monotonic() - started < 5


def test_a_watcher_that_leaves_is_forgotten(server: Server, client: Client) -> None:
    with client.adapters.watch() as events:
        next(events)
        assert len(server.app.feed._watches) == 1
    eventually(lambda: not server.app.feed._watches)


def event(kind: AdapterChange, version: str, tier: Tier = Tier.HOST, **more: Any) -> AdapterEvent:
    return AdapterEvent(kind, "a", version, tier, 0.0, **more)


def follow(tiers: dict[str, Tier], events: list[AdapterEvent]) -> None:
    """Keeps the tiers of versions, each of which must really change."""
    for told in events:
        if told.kind is AdapterChange.LOADED:
            assert told.version not in tiers
        elif told.kind is AdapterChange.TIER:
            assert tiers[told.version] is not told.tier
        tiers[told.version] = told.tier
        if told.tier is Tier.DISK:
            del tiers[told.version]


async def test_snapshot_and_changes_meet() -> None:
    """Whenever a watch begins, what it is told adds up to what is in memory at the end."""
    feed = AdapterFeed(asyncio.get_running_loop(), 10_000)
    is_over = threading.Event()

    def change(version: str) -> None:
        while not is_over.is_set():
            for told in (
                event(AdapterChange.LOADED, version),
                event(AdapterChange.TIER, version, Tier.DEVICE),
                event(AdapterChange.PINNED, version, Tier.DEVICE, pinned=True),
                event(AdapterChange.TIER, version, Tier.HOST),
                event(AdapterChange.TIER, version, Tier.DISK),
                # A slot that fills late tells nothing.
                event(AdapterChange.TIER, version, Tier.DEVICE),
            ):
                feed.observe(told)
                time.sleep(0.0002)
        feed.observe(event(AdapterChange.LOADED, version))

    watches: list[tuple[dict[str, Tier], Watch]] = []
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(change, version) for version in "1234"]
        for _ in range(20):
            await asyncio.sleep(0.005)
            found, watch = feed.start("")
            watches.append(({version: where.tier for (_, version), where in found.items()}, watch))
        is_over.set()
        await asyncio.gather(*map(asyncio.wrap_future, running))
    await asyncio.sleep(0)
    feed.close()
    for tiers, watch in watches:
        with contextlib.suppress(DrainingError):
            while True:
                follow(tiers, await watch.next())
        assert tiers == dict.fromkeys("1234", Tier.HOST)
    assert feed._in_memory == {("a", v): InMemory(Tier.HOST, pinned=False) for v in "1234"}
    with pytest.raises(DrainingError):
        feed.start("")


async def test_a_watch_keeps_so_much() -> None:
    watch = Watch("", 3)
    for _ in range(3):
        watch.put(event(AdapterChange.LOADED, "1"))
    assert len(await watch.next()) == 3
    for _ in range(4):
        watch.put(event(AdapterChange.LOADED, "1"))
    with pytest.raises(SlowWatcherError, match="more than 3 changes behind"):
        await watch.next()


def test_back_in_service_before_its_last_lease_ends(
    server: Server, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Never out of memory, it has its slot still; watchers and the log tell that it is back."""
    caplog.set_level("INFO", "server.rpc.watch")
    running = stream(server, long_request("pirate"))
    next(running)
    version = client.adapters.get("pirate").adapter.version
    with client.adapters.watch(timeout=60) as events:
        while short(next(events))[0] != "synced":
            pass
        client.adapters.unload("pirate")
        client.adapters.load("pirate")
        seen = [short(next(events)) for _ in range(2)]
    running.cancel()
    assert seen == [("unloaded", "pirate", "device"), ("loaded", "pirate", "device")]
    lines = [record.getMessage() for record in caplog.records]
    for told in ("loaded", "unloaded", "loaded"):
        line = f"adapter pirate@{version}: {told}"
        assert line in lines
        lines = lines[lines.index(line) + 1 :]
    eventually(lambda: server.sample("understudy_leases") == 0)
