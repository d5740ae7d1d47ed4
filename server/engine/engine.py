"""The engine: one thread that steps a batch of requests over one base model."""

from server.config import EngineConfig
from server.models.loader import LoadedBase
from server.types import EngineMetrics, EngineStats, Request


class Engine:
    """Runs requests. `submit`, `cancel`, `stats` and `evict` are safe from any thread."""

    def __init__(self, base: LoadedBase, config: EngineConfig, metrics: EngineMetrics) -> None:
        self.base = base
        self.config = config
        self._metrics = metrics

    def start(self) -> None:
        """Starts the thread."""
        raise NotImplementedError

    def submit(self, request: Request) -> None:
        """Queues a request.

        Raises QueueFullError, DrainingError, DeadlineError or InvalidRequestError; the caller
        then still owns the lease.
        """
        raise NotImplementedError

    def cancel(self, request_id: str) -> None:
        """Ends a request with `Failed(RequestCancelledError)`. Unknown ids are ignored."""
        raise NotImplementedError

    def stats(self) -> EngineStats:
        """What the engine is doing now."""
        raise NotImplementedError

    def evict(self, name: str, version: str) -> None:
        """Drops an adapter's device slot as soon as no sequence uses it."""
        raise NotImplementedError

    def stop(self, drain_s: float = 0.0) -> None:
        """Takes no new requests, lets running ones finish for `drain_s`, then fails the rest
        with DrainingError and joins the thread."""
        raise NotImplementedError
