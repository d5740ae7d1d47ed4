"""Servers in this process, on a loop of their own, with a tiny real base, and raw stubs."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.app import App
from server.config import (
    AdaptersConfig,
    BaseConfig,
    EngineConfig,
    LimitsConfig,
    ListenConfig,
    ServerConfig,
)
from tests.tiny import CONTEXT as CONTEXT
from tests.tiny import lora_config, make_adapter, make_base, prompt_config
from understudy.store import publish
from understudy.v1 import generation_service_pb2 as gpb
from understudy.v1 import types_pb2 as tpb
from understudy.v1.adapter_service_pb2_grpc import AdapterServiceStub
from understudy.v1.generation_service_pb2_grpc import GenerationServiceStub

T = TypeVar("T")
TIMEOUT_S = 60.0


class LoopThread:
    """An event loop in a thread, for servers that synchronous tests call."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(TIMEOUT_S)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@dataclass
class Server:
    """A running server and stubs for it."""

    app: App
    loop: LoopThread
    channel: grpc.Channel
    generation: Any
    adapters: Any

    def generate(self, text: str = "noon", adapter: str = "", **fields: Any) -> gpb.Generation:
        """The one generation of a short greedy request."""
        request = request_for(text, adapter, **fields)
        response: gpb.GenerateResponse = self.generation.Generate(request, timeout=TIMEOUT_S)
        return response.generations[0]

    def sample(self, name: str, **labels: str) -> float:
        """Sum of a metric's samples that carry these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.app.metrics.exposition())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def request_for(text: str = "noon", adapter: str = "", **fields: Any) -> gpb.GenerateRequest:
    fields.setdefault("input", tpb.Input(text=text))
    fields.setdefault("stopping", tpb.StoppingParams(max_tokens=8, ignore_eos=True))
    return gpb.GenerateRequest(adapter=adapter, **fields)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


@dataclass(frozen=True)
class Artifacts:
    """Artifact directories made once; copy before you change one."""

    lora: Path
    lora_v2: Path
    prompt: Path


@pytest.fixture(scope="session")
def artifacts(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    folder = tmp_path_factory.mktemp("artifacts")
    return Artifacts(
        lora=make_adapter(base, folder / "lora", lora_config(), name="pirate", seed=1),
        lora_v2=make_adapter(base, folder / "lora_v2", lora_config(), name="pirate", seed=3),
        prompt=make_adapter(base, folder / "prompt", prompt_config(), name="polite", seed=2),
    )


@pytest.fixture(scope="session")
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


StartServer = Callable[..., Server]


@pytest.fixture
def start_server(base: Path, loop_thread: LoopThread) -> Iterator[StartServer]:
    """A function that starts servers; they end with the test."""
    started: list[Server] = []

    def start(**components: Any) -> Server:
        server = launch(base, loop_thread, **components)
        started.append(server)
        return server

    yield start
    for server in started:
        finish(server)


def config_for(base: Path, **components: Any) -> ServerConfig:
    components.setdefault("listen", ListenConfig(port=0, metrics_port=0, drain_s=10.0))
    components.setdefault("engine", EngineConfig(num_blocks=512, max_batch_size=8))
    return ServerConfig(base=BaseConfig(directory=base, quantization="none"), **components)


def launch(base: Path, loop: LoopThread, **components: Any) -> Server:
    async def start() -> App:
        app = App(config_for(base, **components))
        try:
            await app.start()
        except BaseException:
            await app.stop(0.0)
            raise
        return app

    app = loop.call(start())
    channel = grpc.insecure_channel(app.address)
    return Server(app, loop, channel, GenerationServiceStub(channel), AdapterServiceStub(channel))


def finish(server: Server) -> None:
    server.channel.close()
    if server.app.metrics_server is not None:
        server.loop.call(server.app.stop(0.0))


@pytest.fixture(scope="session")
def shared_folders(
    artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A store with `pirate` (LoRA) and `polite` (soft prompt), and a folder for uploads."""
    folder = tmp_path_factory.mktemp("shared")
    publish(artifacts.lora, folder / "store", "pirate")
    publish(artifacts.prompt, folder / "store", "polite")
    (folder / "uploads").mkdir()
    return folder / "store", folder / "uploads"


@pytest.fixture(scope="session")
def shared(
    base: Path, loop_thread: LoopThread, shared_folders: tuple[Path, Path]
) -> Iterator[Server]:
    """One server for tests that leave it as it was."""
    store, uploads = shared_folders
    server = launch(
        base,
        loop_thread,
        adapters=AdaptersConfig(store=store, roots=(uploads,)),
        limits=LimitsConfig(max_batch_in_flight=4),
    )
    yield server
    finish(server)
