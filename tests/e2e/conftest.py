"""A tiny base, two adapters made by PEFT, and a real server process on free ports."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.process import ServerProcess, start
from tests.tiny import lora_config, make_adapter, make_base, prompt_config
from understudy.store import publish


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


@dataclass(frozen=True)
class Artifacts:
    """The adapters of the end-to-end tests, as artifact directories and as a store of both."""

    lora: Path
    prompt: Path
    store: Path
    uploads: Path
    """A folder from which LoadAdapter may read."""


@pytest.fixture(scope="session")
def artifacts(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    folder = tmp_path_factory.mktemp("adapters")
    lora = make_adapter(base, folder / "lora", lora_config(), name="pirate", seed=1)
    prompt = make_adapter(base, folder / "prompt", prompt_config(), name="polite", seed=2)
    store = folder / "store"
    publish(lora, store, "pirate")
    publish(prompt, store, "polite")
    uploads = folder / "uploads"
    uploads.mkdir()
    return Artifacts(lora=lora, prompt=prompt, store=store, uploads=uploads)


StartServer = Callable[..., ServerProcess]


@pytest.fixture
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Return a function that starts servers; they end with the test."""
    started: list[ServerProcess] = []

    def launch(*arguments: object) -> ServerProcess:
        server = start(tmp_path_factory.mktemp("server"), arguments)
        started.append(server)
        return server

    yield launch
    for server in started:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="session")
def server(
    base: Path, artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """One server with the tiny base in nf4 and both adapters, for tests that leave it unharmed."""
    folder = tmp_path_factory.mktemp("server")
    config = {
        "base": {"directory": str(base), "quantization": "nf4", "device": "cpu"},
        "adapters": {"store": str(artifacts.store), "roots": [str(artifacts.uploads)]},
    }
    (folder / "server.yaml").write_text(yaml.safe_dump(config))
    running = start(folder, ["--config", folder / "server.yaml"])
    yield running
    assert running.terminate() == 0, running.log.read_text()


@pytest.fixture
def free_port() -> int:
    """Return a port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
