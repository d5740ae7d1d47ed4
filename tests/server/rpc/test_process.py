"""The server as a process: what it prints and writes, signals while loading and while draining."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.process import command, environment, start
from tests.server.rpc.conftest import request_for
from understudy.v1 import generation_service_pb2 as gpb
from understudy.v1 import types_pb2 as tpb
from understudy.v1.generation_service_pb2_grpc import GenerationServiceStub


@pytest.fixture
def arguments(base: Path) -> list[object]:
    return ["--base", base, "--quantization", "none", "--device", "cpu"]


@pytest.fixture
def loading(arguments: list[object], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A server that waits in the middle of its start: its base's weights are a pipe."""
    base = tmp_path / "slow"
    base.mkdir()
    for file in Path(str(arguments[1])).iterdir():
        if file.suffix != ".safetensors":
            (base / file.name).write_bytes(file.read_bytes())
    os.mkfifo(base / "model.safetensors")
    process = subprocess.Popen(
        command("--base", base, "--port", 0, "--metrics-port", 0),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    yield process
    process.kill()
    process.communicate()


def test_second_signal_ends_it_at_once(arguments: list[object], tmp_path: Path) -> None:
    server = start(tmp_path, [*arguments, "--drain-s", 60])
    assert f"understudy server listening on {server.address}\n" in server.log.read_text()
    assert f"metrics on {server.metrics_url}\n" in server.log.read_text()
    assert server.sample("understudy_ready") == 1
    stopping = tpb.StoppingParams(max_tokens=2000, ignore_eos=True)
    with grpc.insecure_channel(server.address) as channel:
        call = GenerationServiceStub(channel).GenerateStream(
            gpb.GenerateStreamRequest(request=request_for(stopping=stopping)), timeout=60
        )
        next(call)
        server.process.send_signal(signal.SIGTERM)
        while "draining" not in server.log.read_text():
            time.sleep(0.01)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 1
        with pytest.raises(grpc.RpcError):
            list(call)
    assert "second signal" in server.log.read_text()


@pytest.mark.parametrize(("asked", "expected"), [(["--num-threads", 3], 3), ([], 2)])
def test_threads(
    asked: list[object], expected: int, arguments: list[object], tmp_path: Path
) -> None:
    server = start(tmp_path, [*arguments, *asked], num_threads=2)
    try:
        assert f" kernels, {expected} threads\n" in server.log.read_text()
    finally:
        server.process.kill()
        server.process.wait(10)


def test_signal_while_loading(loading: subprocess.Popen[str]) -> None:
    assert loading.stderr is not None
    while "loading" not in (line := loading.stderr.readline()):
        assert line, "ended before it loaded"
    loading.send_signal(signal.SIGINT)
    output, errors = loading.communicate(timeout=10)
    assert loading.returncode == 0
    assert output == ""
    assert "stopped before the base was loaded" in errors
