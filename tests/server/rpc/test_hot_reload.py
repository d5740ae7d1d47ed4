"""A name replaced while many clients use it: nobody fails, nothing is mixed, nothing stays.

A real server process in deterministic mode, so that an answer has the very tokens of its version
alone, in whatever batch it ran.
"""

import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.process import ServerProcess, start
from tests.server.rpc.conftest import Artifacts
from tests.server.rpc.test_lifecycle import eventually
from understudy import Client, GenerateRequest, StoppingParams
from understudy.artifact import read_manifest, seal
from understudy.store import publish

NUM_REQUESTS = 10_000
NUM_REPLACEMENTS = 100
NUM_CLIENTS = 8
IN_FLIGHT = 16
PROMPTS = ("noon", "a quiet town", "the old bridge wrote")
Answer = tuple[int, ...]


@dataclass
class Versions:
    """Versions of one adapter, in the store and as folders to load from."""

    store: Path
    uploads: Path
    names: list[str]
    """Version `names[i]` lies in `uploads/<i>`."""


@pytest.fixture(scope="module")
def versions(artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> Versions:
    """LoRAs and, every fifth, a soft prompt: all with other numbers."""
    folder = tmp_path_factory.mktemp("versions")
    store, uploads = folder / "store", folder / "uploads"
    names = []
    for number in range(25):
        source = artifacts.prompt if number % 5 == 4 else artifacts.lora
        artifact = uploads / str(number)
        shutil.copytree(source, artifact)
        generator = torch.Generator().manual_seed(number)
        tensors = load_file(artifact / "adapter_model.safetensors")
        changed = {
            name: 0.2 * torch.randn(tensor.shape, generator=generator)
            for name, tensor in tensors.items()
        }
        save_file(changed, artifact / "adapter_model.safetensors", metadata={"format": "pt"})
        manifest = read_manifest(artifact)
        assert manifest is not None
        seal(artifact, manifest)
        names.append(publish(artifact, store, "task"))
    assert len(set(names)) == len(names)
    return Versions(store, uploads, names)


@pytest.fixture(scope="module")
def server(
    base: Path, versions: Versions, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    arguments = [
        "--base", base, "--quantization", "none", "--device", "cpu", "--deterministic",
        "--store", versions.store, "--adapter-root", versions.uploads,
        "--set", "engine.num_blocks=1024", "--set", "engine.num_adapter_slots=8",
    ]  # fmt: skip
    running = start(tmp_path_factory.mktemp("server"), arguments)
    yield running
    assert running.terminate() == 0, running.log.read_text()


def request(prompt: int, adapter: str) -> GenerateRequest:
    stopping = StoppingParams(max_tokens=5, ignore_eos=True)
    return GenerateRequest(input=PROMPTS[prompt], adapter=adapter, stopping=stopping)


def solo_answers(client: Client, versions: Versions) -> dict[tuple[int, Answer], str]:
    """The version that answers (prompt, tokens) when it runs alone: never two."""
    found = {}
    for number, version in enumerate(versions.names):
        loaded = client.adapters.load("solo", source=str(number)).adapter.version
        assert loaded == version
        for prompt in range(len(PROMPTS)):
            answer = client.generate(request(prompt, "solo")).generations[0].token_ids
            found[prompt, tuple(answer)] = version
    client.adapters.unload("solo")
    assert len(found) == len(PROMPTS) * len(versions.names)
    return found


@dataclass
class Run:
    """What happened. `replaced` holds the versions in their order; the last may not be in yet."""

    replaced: list[str]
    num_done: int = 0
    """Replacements that the server has confirmed."""
    num_answers: int = 0
    num_late: int = 0
    """Answers that came when another version had been confirmed."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    seen: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def ask(address: str, numbers: range, solos: dict[tuple[int, Answer], str], run: Run) -> None:
    """One client, with a connection and a batch stream of its own."""
    sent: dict[str, tuple[int, int]] = {}

    def requests() -> Iterator[tuple[str, GenerateRequest]]:
        for number in numbers:
            # What had been confirmed by then is the oldest that may answer.
            sent[str(number)] = (number % len(PROMPTS), run.num_done)
            yield str(number), request(number % len(PROMPTS), "task")

    with (
        Client(address) as client,
        client.batch_generate(requests(), max_in_flight=IN_FLIGHT, timeout=120) as answers,
    ):
        for answer in answers:
            prompt, oldest = sent.pop(answer.key)
            with run.lock:
                run.num_answers += 1
                if answer.result is None:
                    run.faults.append(f"{answer.key}: {answer.error}")
                    continue
                reported = answer.result.adapter.version
                tokens = tuple(answer.result.generations[0].token_ids)
                solo = solos.get((prompt, tokens))
                if solo != reported:
                    run.faults.append(f"{answer.key}: says {reported}, is of {solo}")
                if reported not in run.replaced[oldest:]:
                    run.faults.append(f"{answer.key}: {reported} is older than {oldest}")
                run.seen[reported] += 1
                run.num_late += reported != run.replaced[run.num_done]
    if sent:
        run.faults.append(f"{len(sent)} were not answered")


def replace(client: Client, versions: Versions, run: Run) -> None:
    """Replaces the version each time so many more were answered, in three ways in turn."""
    for number in range(1, NUM_REPLACEMENTS + 1):
        while run.num_answers < number * NUM_REQUESTS // (NUM_REPLACEMENTS + 1):
            time.sleep(0.002)
        index = number % len(versions.names)
        version = versions.names[index]
        run.replaced.append(version)
        if number % 3 == 0:
            loaded = client.adapters.load("task", source=str(index)).adapter
        else:
            loaded = client.adapters.set_alias("task", "latest", version)
            if number % 3 == 1:
                loaded = client.adapters.load("task").adapter
        assert loaded.version == version
        assert loaded.current
        run.num_done = number


def test_ten_thousand_requests_while_a_name_is_replaced_a_hundred_times(
    server: ServerProcess, versions: Versions
) -> None:
    with Client(server.address) as client:
        solos = solo_answers(client, versions)
        client.adapters.set_alias("task", "latest", versions.names[0])
        client.adapters.load("task")
        run = Run([versions.names[0]])
        with ThreadPoolExecutor(NUM_CLIENTS) as pool:
            asking = [
                pool.submit(ask, server.address, range(k, NUM_REQUESTS, NUM_CLIENTS), solos, run)
                for k in range(NUM_CLIENTS)
            ]
            replace(client, versions, run)
            for future in asking:
                future.result()
        assert run.faults == []
        assert run.num_answers == run.seen.total() == NUM_REQUESTS
        assert set(run.seen) == set(versions.names)
        assert run.num_late >= NUM_REPLACEMENTS

        # The old ones have left host memory, the device and the prefix cache.
        assert client.generate(request(0, "task")).adapter.version == run.replaced[-1]
        for tier in ("host", "device"):
            eventually(lambda tier=tier: server.sample("understudy_adapters", tier=tier) == 1)
        assert server.sample("understudy_leases") == 0
        client.adapters.unload("task")
        eventually(lambda: server.sample("understudy_blocks_cached") == 0)
        assert server.sample("understudy_blocks_used") == 0
        for tier in ("host", "device"):
            assert server.sample("understudy_adapters", tier=tier) == 0
            assert server.sample("understudy_adapter_bytes", tier=tier) == 0
        ended = server.sample("understudy_requests_ended_total", adapter="task")
        assert ended == server.sample(
            "understudy_requests_ended_total", adapter="task", outcome="length"
        )
