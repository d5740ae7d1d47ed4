"""The real server process, driven by the real client."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from understudy import (
    Client,
    DeadlineExceededError,
    FinishReason,
    OutputOptions,
    SamplingParams,
    StoppingParams,
    StreamDelta,
    StreamFinished,
    StreamStarted,
    TokenIds,
    UnavailableError,
)

ROOT = Path(__file__).resolve().parent.parent.parent
LONG = StoppingParams(max_tokens=1500, ignore_eos=True)
SHORT = StoppingParams(max_tokens=12, ignore_eos=True)


@pytest.fixture
def client(server) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def test_health_and_reflection(server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        services = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert services >= {
        "understudy.v1.GenerationService",
        "understudy.v1.AdapterService",
        "grpc.health.v1.Health",
    }


def test_model_info(client: Client, base) -> None:
    info = client.model_info()
    assert (info.base_model, info.quantization, info.dtype) == (base.name, "nf4", "float32")
    assert info.architecture == "LlamaForCausalLM"
    assert {"lora", "prompt_tuning"} <= set(info.adapter_methods)


def test_stream_is_started_deltas_finished(client: Client) -> None:
    whole = client.generate("a quiet town", adapter="pirate", stopping=SHORT)
    with client.stream("a quiet town", adapter="pirate", stopping=SHORT) as stream:
        first, *deltas, last = list(stream)
    assert isinstance(first, StreamStarted)
    assert first.adapter == whole.adapter
    assert first.num_prompt_tokens == whole.usage.num_prompt_tokens
    assert all(isinstance(delta, StreamDelta) for delta in deltas)
    assert isinstance(last, StreamFinished)
    assert last.generations[0].finish_reason is FinishReason.LENGTH
    assert "".join(delta.text for delta in deltas) == whole.text
    ids = tuple(i for delta in deltas for i in delta.token_ids)
    assert ids == whole.generations[0].token_ids
    assert len(ids) == SHORT.max_tokens


def test_seed_decides_the_sample(client: Client) -> None:
    def draw(seed: int) -> str:
        sampling = SamplingParams(temperature=1.5, top_k=50, seed=seed)
        return client.generate("rain", sampling=sampling, stopping=SHORT).text

    assert draw(7) == draw(7)
    assert len({draw(seed) for seed in range(5)}) > 1


def test_stop_string_ends_the_text(client: Client) -> None:
    text = client.generate("the driver", stopping=SHORT).text
    stop = text[len(text) // 2 :][:3]
    stopping = StoppingParams(max_tokens=12, ignore_eos=True, stop=[stop])
    generation = client.generate("the driver", stopping=stopping).generations[0]
    assert generation.finish_reason is FinishReason.STOP
    assert generation.stop == stop
    assert generation.text == text[: text.index(stop)]


def test_score_agrees_with_generation(client: Client) -> None:
    """Greedy tokens, scored as a continuation, get the log-probabilities they were drawn at."""
    result = client.generate(
        "nobody saw", adapter="polite", stopping=SHORT, output=OutputOptions(logprobs=True)
    )
    generation = result.generations[0]
    score = client.score("nobody saw", [TokenIds(generation.token_ids)], adapter="polite")
    assert score.scores[0].is_greedy
    assert score.scores[0].num_tokens == SHORT.max_tokens
    total = sum(token.logprob for token in generation.logprobs)
    assert score.scores[0].logprob == pytest.approx(total, abs=1e-3)


def test_cancel_mid_stream_frees_the_slot(client: Client, server) -> None:
    def running() -> float:
        return server.sample("understudy_sequences_running")

    before = server.sample("understudy_requests_ended_total", outcome="cancelled")
    stream = client.stream("the old bridge", adapter="pirate", stopping=LONG)
    deltas = 0
    for event in stream:
        deltas += isinstance(event, StreamDelta)
        if deltas == 3:
            break
    assert running() == 1
    assert client.adapters.get("pirate").adapter.num_leases == 1
    stream.close()
    wait_for(lambda: running() == 0, "the cancelled request leaves the batch")
    assert server.sample("understudy_requests_ended_total", outcome="cancelled") == before + 1
    assert client.adapters.get("pirate").adapter.num_leases == 0
    assert client.generate("the old bridge", adapter="pirate", stopping=SHORT).text


def test_deadline_ends_the_request(client: Client, server) -> None:
    with pytest.raises(DeadlineExceededError):
        client.generate("noon", stopping=LONG, timeout=0.2)
    wait_for(lambda: server.sample("understudy_sequences_running") == 0, "the batch is empty")


def test_sigterm_drains(base, artifacts, start_server) -> None:
    """Running requests finish, new ones are turned away, the process exits with 0."""
    server = start_server("--base", base, "--store", artifacts.store, "--quantization", "none")
    stopping = StoppingParams(max_tokens=600, ignore_eos=True)
    tokens: list[int] = []
    with Client(server.address) as client, Client(server.address) as other:
        other.model_info()
        started = threading.Event()

        def consume() -> None:
            for event in client.stream("a short note", stopping=stopping):
                if isinstance(event, StreamDelta):
                    tokens.extend(event.token_ids)
                    started.set()

        reader = threading.Thread(target=consume)
        reader.start()
        assert started.wait(30)
        server.process.terminate()
        wait_for(lambda: turned_away(other), "new requests are refused")
        reader.join(60)
    assert len(tokens) == 600
    assert server.process.wait(30) == 0


def turned_away(client: Client) -> bool:
    try:
        client.generate("x", stopping=SHORT, timeout=2)
    except (UnavailableError, DeadlineExceededError):
        return True
    return False


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.cuda"])
def test_health_check_of_the_images(name: str, server, free_port: int) -> None:
    """The command in the image passes on a server that serves and fails where none does."""
    dockerfile = (ROOT / "deploy" / "docker" / name).read_text(encoding="utf-8")
    check = re.search(r"HEALTHCHECK .*?CMD (\[.*?\])$", dockerfile, re.DOTALL | re.MULTILINE)
    assert check
    for address, passes in ((server.address, True), (f"localhost:{free_port}", False)):
        _, *arguments = json.loads(check[1].replace("localhost:50051", address))
        assert (subprocess.run([sys.executable, *arguments]).returncode == 0) == passes
