"""Channels: TLS, message limits, service config."""

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

import understudy
from understudy import ChannelConfig, Client, RetryPolicy, Tls
from understudy._channel import channel_options
from understudy.v1 import generation_service_pb2 as generation_pb


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[tuple[str, bytes]]:
    """Address and certificate of a server named `understudy.test`."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "1", "-subj", "/CN=understudy.test"),
            *("-addext", "subjectAltName=DNS:understudy.test"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    readiness = HealthServicer()
    readiness.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(readiness, server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}", certificate.read_bytes()
    server.stop(None).wait()


def test_tls(tls_server: tuple[str, bytes]) -> None:
    address, certificate = tls_server
    tls = Tls(root_certificates=certificate, server_name="understudy.test")
    with Client(address, channel=ChannelConfig(tls=tls)) as client:
        client.wait_ready(timeout=10)


async def test_tls_of_the_asynchronous_client(tls_server: tuple[str, bytes]) -> None:
    address, certificate = tls_server
    tls = Tls(root_certificates=certificate, server_name="understudy.test")
    async with understudy.AsyncClient(address, channel=ChannelConfig(tls=tls)) as client:
        await client.wait_ready(timeout=10)


@pytest.mark.parametrize("trusts", [False, True])
def test_tls_refuses_strangers(tls_server: tuple[str, bytes], trusts: bool) -> None:
    """An unknown certificate, and a known one under another name."""
    address, certificate = tls_server
    tls = Tls(root_certificates=certificate, server_name="other.test") if trusts else Tls()
    with (
        Client(address, channel=ChannelConfig(tls=tls)) as client,
        pytest.raises(understudy.UnavailableError),
    ):
        client.wait_ready(timeout=0.5)


def test_answers_above_grpcs_default_limit_arrive(scripted: Any, client: Client) -> None:
    prompt = "x" * (6 << 20)
    scripted.handlers["Tokenize"] = lambda *_: generation_pb.TokenizeResponse(prompt=prompt)
    assert client.tokenize("x").prompt == prompt


def test_message_limit(scripted: Any) -> None:
    """Not retried: the same answer would be too large again."""
    scripted.handlers["Tokenize"] = lambda *_: generation_pb.TokenizeResponse(prompt="x" * 5000)
    channel = ChannelConfig(max_message_bytes=1000)
    with (
        Client(scripted.address, channel=channel, retry=RetryPolicy()) as client,
        pytest.raises(understudy.ResourceExhaustedError),
    ):
        client.tokenize("x")
    assert scripted.count("Tokenize") == 1


def test_service_config_takes_effect(scripted: Any) -> None:
    """A per-method time limit of the service config ends a call before its own deadline."""
    gone = threading.Event()

    def hang(_: Any, context: grpc.ServicerContext) -> None:
        context.add_callback(gone.set)
        gone.wait(10)

    scripted.handlers["GetModelInfo"] = hang
    service = {"name": [{"service": "understudy.v1.GenerationService"}], "timeout": "0.3s"}
    channel = ChannelConfig(service_config={"methodConfig": [service]})
    began = time.monotonic()
    with (
        Client(scripted.address, channel=channel) as client,
        pytest.raises(understudy.DeadlineExceededError),
    ):
        client.model_info(timeout=50)
    assert time.monotonic() - began < 5


def test_keepalive_is_in_milliseconds() -> None:
    options = dict(channel_options(ChannelConfig(keepalive_s=1.5, keepalive_timeout_s=0.25)))
    assert options["grpc.keepalive_time_ms"] == 1500
    assert options["grpc.keepalive_timeout_ms"] == 250
