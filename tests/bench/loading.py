"""What loading adapters costs those who wait for one, and those who do not."""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from server.adapters.store import AdapterStore
from tests.bench.load import TIMEOUT_S
from tests.bench.registry import Registry
from understudy import AsyncClient, GenerateRequest, StoppingParams, StreamDelta, TokenIds
from understudy.v1 import adapter_service_pb2 as pb
from understudy.v1.adapter_service_pb2_grpc import AdapterServiceStub

_PAGE_SIZE = 1000
_AT_A_TIME = 4
"""LoadAdapter calls that are open."""


@dataclass
class Window:
    """The gaps between tokens of all streams, while something else happened or nothing did."""

    gaps_s: list[float] = field(default_factory=list)
    duration_s: float = 0.0
    num_loaded: int = 0

    def __iadd__(self, other: "Window") -> "Window":
        self.gaps_s += other.gaps_s
        self.duration_s += other.duration_s
        self.num_loaded += other.num_loaded
        return self


@dataclass
class FirstTokens:
    """Seconds to the first token, and to read an adapter's files."""

    warm_s: list[float] = field(default_factory=list)
    cold_s: list[float] = field(default_factory=list)
    read_s: list[float] = field(default_factory=list)


def resident_bytes(pid: int) -> int:
    """Memory of a process that is its own: neither shared nor files of others."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in text.splitlines()[1:])
    return sum(int(fields[key].split()[0]) * 1024 for key in ("Private_Clean", "Private_Dirty"))


def heap_bytes(root: Path) -> int:
    """What Python allocates to list a store, and keeps: in this process, as tracing slows it."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    store = AdapterStore(root)
    for _ in range(2):
        for name in store.names():
            for version in store.versions(name):
                store.aliases_of(name, version)
                store.facts(name, version)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    store.close()
    return after - before


async def list_all(address: str) -> tuple[int, float]:
    """How many adapters ListAdapters tells of, and how long all pages take."""
    began, count, token = time.perf_counter(), 0, ""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = AdapterServiceStub(channel)
        while True:
            request = pb.ListAdaptersRequest(page_size=_PAGE_SIZE, page_token=token)
            page = await stub.ListAdapters(request, timeout=TIMEOUT_S)
            count += len(page.adapters)
            token = page.next_page_token
            if not token:
                return count, time.perf_counter() - began


async def first_tokens(
    address: str, registry: Registry, prompts: Sequence[Sequence[int]]
) -> FirstTokens:
    """One request at a time: of an adapter that lies on disk alone, then of the same one again."""
    found = FirstTokens()
    async with AsyncClient(address, timeout=TIMEOUT_S) as client:
        await client.wait_ready()
        names = registry.loaded[: len(prompts) // 2]
        registry.drop_page_cache(names)
        for name in names:
            began = time.perf_counter()
            for path in registry.directories[name].iterdir():
                path.read_bytes()
            found.read_s.append(time.perf_counter() - began)
        registry.drop_page_cache(names)
        for index, name in enumerate(names):
            for seconds, prompt in (
                (found.cold_s, prompts[2 * index]),
                (found.warm_s, prompts[2 * index + 1]),
            ):
                seconds.append(await _first_token(client, name, prompt))
    return found


async def tokens_while(
    address: str,
    registry: Registry,
    prompts: Sequence[Sequence[int]],
    *,
    num_tokens: int,
    load: Sequence[str] = (),
    window_s: float = 0.0,
) -> Window:
    """Streams tokens of the adapters in slots; meanwhile loads those named in `load`, or without
    any waits for `window_s`. Counts the gaps from then until that is over."""
    window = Window()
    opened, closed = asyncio.Event(), asyncio.Event()
    ready = asyncio.Semaphore(0)
    stopping = StoppingParams(max_tokens=num_tokens, ignore_eos=True)

    async def stream(client: AsyncClient, adapter: str, prompt: Sequence[int]) -> None:
        request = GenerateRequest(TokenIds(list(prompt)), adapter=adapter, stopping=stopping)
        last: float | None = None
        async with client.stream(request) as events:
            async for event in events:
                if closed.is_set():
                    return
                if not isinstance(event, StreamDelta) or not event.token_ids:
                    continue
                now, count = time.perf_counter(), len(event.token_ids)
                if last is None:
                    ready.release()
                elif opened.is_set():
                    window.gaps_s += [(now - last) / count] * count
                last = now
        raise RuntimeError("a stream ended while it was measured; give it more tokens")

    async with AsyncClient(address, timeout=TIMEOUT_S) as client:
        await client.wait_ready()
        async with asyncio.TaskGroup() as group:
            for index, prompt in enumerate(prompts):
                adapter = registry.resident[index % len(registry.resident)]
                group.create_task(stream(client, adapter, prompt))
            for _ in prompts:
                await ready.acquire()
            began = time.perf_counter()
            opened.set()
            if load:
                await _load_all(address, load)
                window.num_loaded = len(load)
            else:
                await asyncio.sleep(window_s)
            closed.set()
            window.duration_s = time.perf_counter() - began
    return window


async def unload(address: str, names: Sequence[str]) -> None:
    """Takes adapters out of memory."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = AdapterServiceStub(channel)
        for name in names:
            await stub.UnloadAdapter(pb.UnloadAdapterRequest(adapter=name), timeout=TIMEOUT_S)


async def _first_token(client: AsyncClient, adapter: str, prompt: Sequence[int]) -> float:
    stopping = StoppingParams(max_tokens=2, ignore_eos=True)
    request = GenerateRequest(TokenIds(list(prompt)), adapter=adapter, stopping=stopping)
    began = time.perf_counter()
    first = None
    async with client.stream(request) as events:
        async for event in events:
            if first is None and isinstance(event, StreamDelta) and event.token_ids:
                first = time.perf_counter() - began
    assert first is not None
    return first


async def _load_all(address: str, names: Sequence[str]) -> None:
    pending = iter(names)
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = AdapterServiceStub(channel)

        async def worker() -> None:
            for name in pending:
                await stub.LoadAdapter(pb.LoadAdapterRequest(name=name), timeout=TIMEOUT_S)

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_A_TIME):
                group.create_task(worker())
