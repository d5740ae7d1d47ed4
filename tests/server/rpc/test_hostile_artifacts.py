"""Hostile artifacts at a running server, by LoadAdapter and by first use, beside other requests.

A process of its own, so that its memory is the server's alone.
"""

import json
import os
import re
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.config import AdaptersConfig
from tests.process import ServerProcess, start
from tests.server.adapters.hostile.cases import (
    CASES,
    HARMLESS,
    MAX_BYTES,
    UNUSABLE,
    make,
    make_originals,
)
from tests.server.rpc.conftest import Artifacts, StartServer, request_for
from tests.server.rpc.test_adapters import copy
from tests.server.rpc.test_lifecycle import eventually
from understudy.artifact import CONFIG_FILE, MANIFEST_FILE, TENSORS_FILE
from understudy.store import VERSION_CHARS, VERSION_PATTERN, publish
from understudy.v1 import adapter_service_pb2 as apb
from understudy.v1 import types_pb2 as tpb
from understudy.v1.adapter_service_pb2_grpc import AdapterServiceStub
from understudy.v1.generation_service_pb2_grpc import GenerationServiceStub

AT_A_TIME = 16
QUIET_S = 0.4
STALL_S = 0.25
MIB = 1 << 20


@dataclass(frozen=True)
class Folders:
    store: Path
    uploads: Path


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Every case as a folder to load from, and as a version in the store."""
    folder = tmp_path_factory.mktemp("hostile")
    store, uploads = folder / "store", folder / "uploads"
    originals = make_originals(base, folder / "originals")
    publish(originals["lora"], store, "sound")
    for name in [*CASES, *HARMLESS, *UNUSABLE]:
        make(name, originals, uploads / name)
        put = make(name, originals, store / name / "new")
        put.rename(store / name / version_in(put))
    return Folders(store, uploads)


def version_in(directory: Path) -> str:
    """What the manifest says, true or not, as far as a store could hold it."""
    path = directory / MANIFEST_FILE
    text = path.read_bytes()[:10_000] if path.is_file() else b""
    found = re.search(rb'"content_hash": "([0-9a-f]{16})', text)
    version = found[1].decode() if found else "0" * VERSION_CHARS
    assert VERSION_PATTERN.fullmatch(version)
    return version


@pytest.fixture(scope="module")
def server(
    base: Path, folders: Folders, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    arguments = [
        "--base", base, "--quantization", "none", "--device", "cpu",
        "--store", folders.store, "--adapter-root", folders.uploads,
        "--set", f"adapters.max_adapter_bytes={MAX_BYTES}", "--set", "adapters.load_share=0.2",
        "--set", "engine.num_blocks=512",
    ]  # fmt: skip
    running = start(tmp_path_factory.mktemp("server"), arguments)
    yield running
    assert running.terminate() == 0, running.log.read_text()


@dataclass
class Beside:
    """Requests that run beside, and how long they and the answers of an idle call took, seconds."""

    address: str
    phase: str = ""
    requests_s: dict[str, list[float]] = field(default_factory=lambda: {"quiet": [], "hostile": []})
    calls_s: dict[str, list[float]] = field(default_factory=lambda: {"quiet": [], "hostile": []})
    texts: set[str] = field(default_factory=set)
    ended: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        with grpc.insecure_channel(self.address) as channel:
            stub = GenerationServiceStub(channel)
            while not self.ended.is_set():
                phase, began = self.phase, time.monotonic()
                answer = stub.Generate(request_for(adapter="sound"), timeout=60)
                self._add(self.requests_s, phase, began)
                self.texts.add(answer.generations[0].text)

    def call(self) -> None:
        with grpc.insecure_channel(self.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while not self.ended.wait(0.005):
                phase, began = self.phase, time.monotonic()
                stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
                self._add(self.calls_s, phase, began)

    def _add(self, times: dict[str, list[float]], phase: str, began: float) -> None:
        if phase and phase == self.phase:
            times[phase].append(time.monotonic() - began)


def memory(server: ServerProcess, key: str) -> int:
    """`VmRSS` or `VmHWM` in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def fault(call: Any, request: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=60)
    error: Any = caught.value
    return error.code(), error.details()


def check(name: str, folders: Folders, code: grpc.StatusCode, message: str) -> None:
    assert code is grpc.StatusCode.FAILED_PRECONDITION, f"{name}: {code} {message}"
    assert CASES[name].says in message
    assert any(file in message for file in (CONFIG_FILE, TENSORS_FILE, MANIFEST_FILE))
    assert str(folders.store.parent) not in message


def test_each_is_refused_and_costs_nobody_else_anything(
    server: ServerProcess, folders: Folders
) -> None:
    assert len(CASES) >= 60
    names = sorted(CASES)
    beside = Beside(server.address)
    with grpc.insecure_channel(server.address) as channel:
        adapters, generation = AdapterServiceStub(channel), GenerationServiceStub(channel)
        adapters.LoadAdapter(apb.LoadAdapterRequest(name="sound", pin=True), timeout=60)
        threads = [threading.Thread(target=work) for work in (beside.ask, beside.ask, beside.call)]
        for thread in threads:
            thread.start()
        time.sleep(QUIET_S)
        # Forgets the highest so far.
        Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
        before = memory(server, "VmRSS")
        try:
            for begin in range(0, len(names), AT_A_TIME):
                beside.phase = "quiet"
                time.sleep(QUIET_S)
                beside.phase = "hostile"
                for name in names[begin : begin + AT_A_TIME]:
                    request = apb.LoadAdapterRequest(name=name, source=name)
                    check(name, folders, *fault(adapters.LoadAdapter, request))
                    check(name, folders, *fault(generation.Generate, request_for(adapter=name)))
                    # Shown all the same, as far as it can be.
                    shown = adapters.GetAdapter(apb.GetAdapterRequest(adapter=name), timeout=60)
                    assert shown.adapter.tier == tpb.TIER_DISK
        finally:
            beside.ended.set()
            for thread in threads:
                thread.join()
        listed = adapters.ListAdapters(apb.ListAdaptersRequest(page_size=1000)).adapters
    assert {a.name for a in listed if a.tier != tpb.TIER_DISK} == {"sound"}
    assert {a.name for a in listed} >= set(names)
    eventually(lambda: server.sample("understudy_leases") == 0)
    assert server.sample("understudy_adapters", tier="host") == 1
    assert server.sample("understudy_adapter_load_failures_total") == 2 * len(names)
    assert len(beside.texts) == 1
    assert memory(server, "VmRSS") - before < 64 * MIB
    assert memory(server, "VmHWM") - before < 128 * MIB
    quiet, hostile = beside.requests_s["quiet"], beside.requests_s["hostile"]
    assert min(len(quiet), len(hostile)) > 30
    assert statistics.median(hostile) < 3 * statistics.median(quiet)
    calls = {phase: sum(s > STALL_S for s in times) for phase, times in beside.calls_s.items()}
    assert calls["hostile"] <= calls["quiet"] + 2, {p: max(t) for p, t in beside.calls_s.items()}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_loads_and_cannot_be_used(server: ServerProcess, name: str) -> None:
    with grpc.insecure_channel(server.address) as channel:
        generation, adapters = GenerationServiceStub(channel), AdapterServiceStub(channel)
        sound = generation.Generate.future(request_for(adapter="sound"), timeout=60)
        request = request_for(adapter=name, text="noon in a quiet town " * 20)
        code, message = fault(generation.Generate, request)
        if name.startswith("template"):
            assert code is grpc.StatusCode.INVALID_ARGUMENT, message
            assert message.startswith("input.text: prompt template")
        else:
            assert code is grpc.StatusCode.FAILED_PRECONDITION, message
        assert UNUSABLE[name].says in message
        assert sound.result().generations[0].text
        adapters.UnloadAdapter(apb.UnloadAdapterRequest(adapter=name), timeout=60)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_looks_hostile(server: ServerProcess, name: str) -> None:
    with grpc.insecure_channel(server.address) as channel:
        generation, adapters = GenerationServiceStub(channel), AdapterServiceStub(channel)
        answer = generation.Generate(request_for(adapter=name), timeout=60)
        assert len(answer.generations[0].token_ids) == 8
        adapters.UnloadAdapter(apb.UnloadAdapterRequest(adapter=name), timeout=60)


def test_evaluation_results_that_no_message_could_hold(
    start_server: StartServer, artifacts: Artifacts, tmp_path: Path
) -> None:
    source = copy(artifacts.lora, tmp_path / "source")
    publish(source, tmp_path / "store", "pirate")
    (directory,) = (p for p in (tmp_path / "store" / "pirate").iterdir() if p.is_dir())
    evals = directory / "evals"
    evals.mkdir()
    (evals / "a-sound.json").write_text('{"rougeL": 0.5}')
    for number in range(30):
        (evals / f"big{number}.json").write_text(json.dumps({"x": "y" * 300_000}))
    (evals / "deep.json").write_text('{"a":' * 100_000)
    (evals / "huge.json").write_text(" " * (20 * MIB))
    (evals / "link.json").symlink_to("/etc/hostname")
    (evals / "list.json").write_text("[]")
    os.mkfifo(evals / "pipe.json")
    (evals / "folder.json").mkdir()
    Path(os.fsdecode(os.fsencode(evals) + b"/\xff.json")).write_text("{}")
    server = start_server(adapters=AdaptersConfig(store=tmp_path / "store"))
    answer = server.adapters.GetAdapter(apb.GetAdapterRequest(adapter="pirate"), timeout=30)
    assert set(answer.evals_json) == {"a-sound.json", "big0.json", "big1.json", "big10.json"}
    assert answer.ByteSize() < 2 * MIB
