"""What a server takes of the machine: its hardware, ports, and a thread to load the base in."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

import torch

from server.config import Hardware, ListenConfig
from server.errors import StartupError
from server.metrics import Metrics, MetricsServer
from server.models.memory import host_bytes
from server.models.processor import num_cores, num_threads_asked

T = TypeVar("T")


def detect_hardware() -> Hardware:
    """The machine, or the container, this process runs on."""
    has_cuda = torch.cuda.is_available()
    return Hardware(
        has_cuda=has_cuda,
        cuda_has_bfloat16=has_cuda and torch.cuda.is_bf16_supported(),
        cuda_memory_bytes=torch.cuda.get_device_properties(0).total_memory if has_cuda else 0,
        host_memory_bytes=host_bytes(),
        num_cores=num_threads_asked() or num_cores(),
    )


def bind(config: ListenConfig, metrics: Metrics) -> MetricsServer:
    """Starts the metrics door and makes sure that gRPC's port is free. Raises StartupError."""
    try:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((config.host, config.port))
    except OSError as error:
        raise _cannot_listen(config.host, config.port, "port", error) from error
    try:
        return MetricsServer(metrics.registry, config.host, config.metrics_port)
    except OSError as error:
        raise _cannot_listen(config.host, config.metrics_port, "metrics-port", error) from error


def _cannot_listen(host: str, port: int, flag: str, error: OSError) -> StartupError:
    reason = (error.strerror or str(error)).lower()
    return StartupError(
        f"cannot listen on {host}:{port}: {reason}; choose another with --{flag}, 0 for a free one"
    )


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """Runs `work` in a thread that does not keep the process alive."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: Exception | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def target() -> None:
        result, error = None, None
        try:
            result = work()
        except Exception as raised:
            error = raised
        # The loop is closed where nobody waits any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=target, name="load-base", daemon=True).start()
    return await done
