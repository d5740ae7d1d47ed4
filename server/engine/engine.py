"""The engine: one thread that steps a batch of requests over one base model.

    submit -> inbox -> scheduler -> batch -> runner -> sampler -> answer -> emit

Every accepted request gets exactly one terminal event, from the engine's thread; its lease, blocks
and slots are given back there and nowhere else.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

from server.config import EngineConfig
from server.engine.capture import cuda_capture
from server.engine.core import EngineCore
from server.engine.limits import check_request, request_label
from server.engine.pace import Pace
from server.errors import DeadlineError, DrainingError, InvalidRequestError, QueueFullError
from server.models.loader import LoadedBase
from server.models.processor import compute_with
from server.types import AdapterObserver, EngineMetrics, EngineStats, Request, unobserved

logger = logging.getLogger(__name__)

# Far deadlines are more than a lock's timeout can hold.
_MAX_WAIT_S = 3600.0


class Engine:
    """Runs requests. Every method is safe from any thread."""

    def __init__(
        self,
        base: LoadedBase,
        config: EngineConfig,
        metrics: EngineMetrics,
        on_change: AdapterObserver = unobserved,
        loader: Executor | None = None,
    ) -> None:
        """`on_change` is told of adapters that go to device slots or out of them.

        `loader` makes their device forms, beside the steps; by default steps wait for that. Raises
        StartupError for a configuration that this base or its device cannot do.
        """
        self.base = base
        self.config = config
        self._metrics = metrics
        self._core = EngineCore(
            base,
            config,
            metrics,
            self._ended,
            on_change,
            loader=loader,
            on_placed=self._wake,
            capture=cuda_capture(base, config) if config.cuda_graphs else None,
        )
        self.max_context = self._core.max_context
        """Most positions of one request: the model's context, or the whole cache."""
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        # Guards everything below.
        self._changed = threading.Condition()
        self._inbox: deque[Request] = deque()
        self._cancelled: set[str] = set()
        self._orders: list[Callable[[], None]] = []
        # An adapter has been placed since the last step began.
        self._has_placed = False
        # The last step found nothing that could run.
        self._is_blocked = False
        self._active: set[str] = set()
        self._num_queued = 0
        self._stop_at: float | None = None
        self._pace = Pace()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Queues a request.

        Raises InvalidRequestError, DeadlineError, DrainingError or QueueFullError; the caller
        then still owns the lease.
        """
        check_request(request, self.base.info, self.config, self.max_context)
        if request.deadline_s is not None and request.deadline_s <= time.monotonic():
            raise DeadlineError("the deadline passed before the request was queued")
        with self._changed:
            if self._stop_at is not None:
                raise DrainingError("the server is shutting down")
            if request.request_id in self._active:
                raise InvalidRequestError("request_id", "another running request has this id")
            if self._num_queued >= self.config.max_queue_size:
                delay_s = self._pace.retry_delay_s(self._num_queued, time.monotonic())
                raise QueueFullError(self.config.max_queue_size, delay_s)
            if not self._active:
                self._pace.begin(time.monotonic())
            self._num_queued += 1
            self._active.add(request.request_id)
            self._inbox.append(request)
            # Before the thread can see the request: accepted comes before started.
            self._metrics.request_accepted(request_label(request))
            self._changed.notify()

    def cancel(self, request_id: str) -> None:
        """Ends a request with `Failed(RequestCancelledError)`. Unknown ids are ignored."""
        with self._changed:
            if request_id in self._active:
                self._cancelled.add(request_id)
                self._changed.notify()

    def evict(self, name: str, version: str) -> None:
        """Drops an adapter's device slot as soon as no sequence uses it."""
        self._order(partial(self._core.evict, name, version))

    def pin(self, name: str, version: str, pinned: bool) -> None:
        """Keeps an adapter in its device slot, once it has one, as long as others can make room;
        until it is unpinned or evicted."""
        self._order(partial(self._core.pin, name, version, pinned))

    def is_placed(self, name: str, version: str) -> bool:
        """Whether an adapter is in a device slot."""
        return self._core.is_placed(name, version)

    def stats(self) -> EngineStats:
        """What the engine is doing now."""
        return self._core.stats()

    def stop(self, drain_s: float = 0.0) -> None:
        """Takes no new requests, lets running ones finish for `drain_s`, then fails the rest
        with DrainingError and joins the thread. A second call may shorten the drain."""
        with self._changed:
            stop_at = time.monotonic() + drain_s
            self._stop_at = stop_at if self._stop_at is None else min(self._stop_at, stop_at)
            self._changed.notify()
        if self._thread.ident is None:
            self._end_all()
        else:
            self._thread.join()

    def _loop(self) -> None:
        if self.config.num_threads is not None:
            compute_with(self.config.num_threads)
        while not self._is_over():
            try:
                self._take_messages()
                self._core.expire(time.monotonic())
                has_run = self._core.step()
            except Exception as error:
                logger.exception("the engine failed; its requests end")
                self._core.fail_all(error)
                has_run = False
            with self._changed:
                self._is_blocked = not has_run
                self._num_queued = len(self._inbox) + self._core.num_unstarted

    def _is_over(self) -> bool:
        """Waits for something to do. True once stopping has come to its end."""
        with self._changed:
            while not self._has_something_to_do():
                until = self._next_time()
                now = time.monotonic()
                if until is not None and until <= now:
                    break
                self._changed.wait(None if until is None else min(until - now, _MAX_WAIT_S))
            self._has_placed = False
            if self._stop_at is None:
                return False
            drained = not (self._inbox or self._core.has_work)
            timed_out = time.monotonic() >= self._stop_at
        if timed_out and not drained:
            self._end_all()
        return drained or timed_out

    def _has_something_to_do(self) -> bool:
        if self._inbox or self._cancelled or self._orders or self._has_placed:
            return True
        return not self._is_blocked if self._core.has_work else self._stop_at is not None

    def _next_time(self) -> float | None:
        """When something is to do even if nobody says so."""
        if not self._core.has_work:
            return None
        times = (self._stop_at, self._core.next_deadline_s)
        return min((at for at in times if at is not None), default=None)

    def _end_all(self) -> None:
        self._take_messages()
        self._core.fail_all(DrainingError("the server shut down before the request ended"))

    def _take_messages(self) -> None:
        with self._changed:
            inbox, self._inbox = self._inbox, deque()
            cancelled, self._cancelled = self._cancelled, set()
            orders, self._orders = self._orders, []
        messages: tuple[Callable[[], None], ...] = (
            # First: a version that was freed may be back and wanted.
            *orders,
            *(partial(self._core.add, request) for request in inbox),
            *(partial(self._core.cancel, request_id) for request_id in cancelled),
        )
        for message in messages:
            try:
                message()
            except Exception:
                # The messages behind it are in no queue any more, and must not be lost.
                logger.exception("a message to the engine failed")

    def _order(self, order: Callable[[], None]) -> None:
        with self._changed:
            self._orders.append(order)
            self._changed.notify()

    def _wake(self) -> None:
        with self._changed:
            self._has_placed = True
            self._changed.notify()

    def _ended(self, request_id: str) -> None:
        with self._changed:
            self._active.discard(request_id)
            self._pace.end(time.monotonic())
