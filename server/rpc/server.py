"""The gRPC server: its doors, its services, its states."""

from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from server.config import ListenConfig
from server.errors import StartupError
from server.metrics import Metrics
from server.rpc.adapters import AdapterServer
from server.rpc.generation import GenerationServer
from server.rpc.interceptors import CallInterceptor, Gate
from understudy.v1 import adapter_service_pb2, generation_service_pb2
from understudy.v1.adapter_service_pb2_grpc import add_AdapterServiceServicer_to_server
from understudy.v1.generation_service_pb2_grpc import add_GenerationServiceServicer_to_server

GENERATION = generation_service_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name
ADAPTERS = adapter_service_pb2.DESCRIPTOR.services_by_name["AdapterService"].full_name

_LOADING = "the server is loading its base model; try again shortly"
_DRAINING = "the server is shutting down"
# Calls that grpc itself takes, for each that we do: those that sent nothing yet, and health checks.
_HARD_LIMIT_FACTOR = 2
# Time for answers on their way when everything has ended.
_CLOSE_S = 1.0


class RpcServer:
    """Listens from the start; takes calls once `serve` has given it something to answer with.

    Health is SERVING between `serve` and `drain` only, for the server as a whole and for each
    service.
    """

    def __init__(self, config: ListenConfig, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self._gate = Gate(_LOADING)
        self._health = health.aio.HealthServicer()
        assert config.max_concurrent_calls is not None, "resolved"
        self._server = grpc.aio.server(
            interceptors=[CallInterceptor(self._gate, metrics, config.max_concurrent_calls)],
            maximum_concurrent_rpcs=_HARD_LIMIT_FACTOR * config.max_concurrent_calls,
            options=[
                # Without this a second server shares the port, and gets half of the calls.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # Lets clients find dead connections sooner than gRPC's five minutes.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        self.address = ""

    async def listen(self) -> None:
        """Binds and answers health checks with NOT_SERVING. Raises StartupError."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (GENERATION, ADAPTERS, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        try:
            port = self._server.add_insecure_port(f"{host}:{self._config.port}")
        except RuntimeError as error:
            raise StartupError(
                f"cannot listen on {host}:{self._config.port}; is the port in use?"
            ) from error
        self.address = f"{host}:{port}"
        await self._server.start()

    async def serve(self, generation: GenerationServer, adapters: AdapterServer) -> None:
        """Takes calls from now on."""
        add_GenerationServiceServicer_to_server(generation, self._server)
        add_AdapterServiceServicer_to_server(adapters, self._server)
        self._gate.open()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        self._metrics.serving(True)

    async def drain(self) -> None:
        """Refuses new calls with UNAVAILABLE; running ones go on."""
        self._gate.close(_DRAINING)
        self._metrics.serving(False)
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def close(self) -> None:
        """Ends what is left and frees the port."""
        await self._server.stop(_CLOSE_S)

    async def _set_health(self, status: Any) -> None:
        services: Sequence[str] = ("", GENERATION, ADAPTERS)
        for service in services:
            await self._health.set(service, status)
