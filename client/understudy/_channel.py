"""Channels: transport security, keepalive, message limits, service config."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from understudy.errors import invalid_argument

ChannelOption = tuple[str, int | str]


@dataclass(frozen=True, slots=True)
class Tls:
    """Transport security. Contents of PEM files; the default trusts the system's roots."""

    root_certificates: bytes | None = None
    private_key: bytes | None = None
    """With `certificate_chain`: the client's own certificate, for mutual TLS."""
    certificate_chain: bytes | None = None
    server_name: str | None = None
    """Name to expect in the server's certificate, where it is not the address's host."""


@dataclass(frozen=True, slots=True)
class ChannelConfig:
    """How to connect."""

    tls: Tls | None = None
    """None: plain text."""
    keepalive_s: float = 300.0
    """Seconds of silence during a call before a ping finds out whether the peer still lives.
    Servers close connections that ping more often than they permit; gRPC's default permits
    every 300 s."""
    keepalive_timeout_s: float = 20.0
    """Seconds to wait for the ping's answer."""
    max_message_bytes: int = 64 << 20
    """Largest answer to accept: log-probabilities of a long prompt exceed gRPC's 4 MiB."""
    service_config: Mapping[str, Any] | None = None
    """gRPC service config, such as a load-balancing policy. Leave retries to RetryPolicy."""


def channel_options(config: ChannelConfig) -> list[ChannelOption]:
    """grpc's channel arguments for `config`."""
    options: list[ChannelOption] = [
        ("grpc.primary_user_agent", "understudy-python"),
        ("grpc.keepalive_time_ms", round(config.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(config.keepalive_timeout_s * 1000)),
        ("grpc.max_receive_message_length", config.max_message_bytes),
        # Reconnect as fast as RetryPolicy tries: while grpc waits, every attempt fails at once.
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5000),
    ]
    if config.service_config is not None:
        options.append(("grpc.service_config", json.dumps(dict(config.service_config))))
    if config.tls is not None and config.tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", config.tls.server_name))
    return options


def open_channel(address: str, config: ChannelConfig) -> grpc.Channel:
    """A channel to `HOST:PORT`, or any gRPC target such as `unix:PATH` and `dns:///HOST:PORT`."""
    _check_address(address)
    if config.tls is None:
        return grpc.insecure_channel(address, channel_options(config))
    return grpc.secure_channel(address, _credentials(config.tls), channel_options(config))


def open_aio_channel(address: str, config: ChannelConfig) -> grpc.aio.Channel:
    """As `open_channel`, for the running event loop."""
    _check_address(address)
    if config.tls is None:
        return grpc.aio.insecure_channel(address, channel_options(config))
    return grpc.aio.secure_channel(address, _credentials(config.tls), channel_options(config))


def _check_address(address: str) -> None:
    if not address or address.startswith(("http://", "https://", "grpc://", "grpcs://")):
        raise invalid_argument("address", f"{address!r} is not HOST:PORT; give it without a scheme")
    if all(mark not in address for mark in ":/"):
        # gRPC would take port 443.
        raise invalid_argument("address", f"{address!r} is not HOST:PORT; the port is missing")


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        tls.root_certificates, tls.private_key, tls.certificate_chain
    )
