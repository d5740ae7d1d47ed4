"""Brings the adapters that sequences want into device slots, beside the steps.

Making an adapter's device form takes as long as a step or several. So it is made elsewhere, by an
executor, and a step only adopts what is finished: nobody who runs waits for it.
"""

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from functools import partial
from itertools import islice
from typing import ParamSpec, TypeVar

import torch

from server.adapters.weights import AdapterWeights, tensors_of
from server.engine.placing import Key, PlacedAdapter, Placer
from server.engine.sequence import Sequence
from server.engine.side_stream import SideStream
from server.engine.slots import AdapterSlots
from server.errors import ServerError

logger = logging.getLogger(__name__)

# Placings that are begun and not adopted. Few: whoever becomes urgent is behind them.
_MAX_AHEAD = 4

Made = tuple[PlacedAdapter, float]
P = ParamSpec("P")
T = TypeVar("T")


class InlineExecutor(Executor):
    """Does the work where it is asked for: the plain form, without a thread."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """A future that is done."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Prefetcher:
    """Knows which sequences want which adapter, and has adapters placed in that order.

    An adapter stays in its slot while somebody wants it, waiting or running, unless room is needed
    for one whose turn it is. Not thread-safe.
    """

    def __init__(
        self,
        slots: AdapterSlots,
        placer: Placer,
        executor: Executor,
        stream: SideStream,
        on_finished: Callable[[], None],
        on_placed: Callable[[str, float], None],
        on_gone: Callable[[Key], None],
    ) -> None:
        """`on_finished` is called, also by the executor's thread, when there is something to
        `collect`. `on_placed` is told an adapter's name and the seconds its placing took,
        `on_gone` that a version which was to be evicted is wanted by nobody."""
        self._slots = slots
        self._placer = placer
        self._executor = executor
        self._stream = stream
        self._on_finished = on_finished
        self._on_placed = on_placed
        self._on_gone = on_gone
        self._wanting: dict[Key, dict[Sequence, None]] = {}
        # Wanted, neither placed nor begun, the longest wanted first.
        self._missing: OrderedDict[Key, None] = OrderedDict()
        self._begun: dict[Key, Future[Made]] = {}
        self._finished: deque[Key] = deque()
        self._failed: dict[Key, Exception] = {}
        self._doomed: set[Key] = set()

    def want(self, sequence: Sequence) -> None:
        """A sequence waits for its adapter from now on, or runs with it."""
        key = _key(sequence)
        if key is None:
            return
        self._wanting.setdefault(key, {})[sequence] = None
        if not (key in self._slots or key in self._begun or key in self._failed):
            self._missing[key] = None

    def unwant(self, sequence: Sequence) -> None:
        """A sequence has ended. One that wanted nothing is ignored."""
        key = _key(sequence)
        wanting = self._wanting.get(key, {}) if key is not None else {}
        if key is None or wanting.pop(sequence, self) is self or wanting:
            return
        del self._wanting[key]
        self._missing.pop(key, None)
        self._failed.pop(key, None)
        if key in self._doomed:
            self.evict(key)

    def is_ready(self, sequence: Sequence, *, urgent: bool) -> bool:
        """Whether the sequence's adapter is placed. If not, and its turn has come (`urgent`),
        placing begins, at the cost of adapters that others only wait for."""
        key = _key(sequence)
        if key is None:
            return True
        if urgent and key in self._missing:
            self._begin(key, urgent=True)
        return key in self._slots

    def is_coming(self, sequence: Sequence) -> bool:
        """Whether its adapter will be ready without anybody having to make room, or has failed."""
        key = _key(sequence)
        return key in self._begun or key in self._failed

    def acquire(self, sequence: Sequence) -> None:
        """Gives a sequence its adapter, which is ready."""
        key = _key(sequence)
        if key is not None:
            sequence.placed = self._slots.acquire(key)

    def release(self, sequence: Sequence) -> None:
        """Takes a sequence's adapter back, if it has one."""
        if sequence.placed is not None:
            self._slots.release(sequence.placed)
            sequence.placed = None

    def prefetch(self) -> None:
        """Begins to place what is wanted, as far as there is room that nobody wants."""
        if not self._missing:
            return
        for key in tuple(islice(self._missing, max(0, _MAX_AHEAD - len(self._begun)))):
            if not self._begin(key, urgent=False):
                break

    def collect(self) -> list[tuple[Sequence, Exception]]:
        """Adopts what is finished; returns the sequences whose adapter cannot be placed."""
        self._adopt()
        failed, self._failed = self._failed, {}
        return [(s, error) for key, error in failed.items() for s in self._wanting[key]]

    def evict(self, key: Key) -> None:
        """Empties an adapter's slot, now or when no sequence wants it any more."""
        if key in self._wanting or key in self._begun:
            self._doomed.add(key)
            return
        self._doomed.discard(key)
        self._slots.pin(key, False)
        self._slots.drop(key)
        self._on_gone(key)

    def check_integrity(self, sequences: Iterable[Sequence]) -> None:
        """Raises AssertionError unless exactly `sequences` want their adapters, each of which is
        in one state."""
        everyone = list(sequences)
        wanting = {s for wanting in self._wanting.values() for s in wanting}
        assert wanting == {s for s in everyone if _key(s) is not None}
        assert all(self._wanting.values())
        for key in self._wanting:
            states = (self._missing, self._slots, self._begun, self._failed)
            assert sum(key in state for state in states) == 1, key
        assert self._missing.keys() | self._failed.keys() <= self._wanting.keys()
        assert self._doomed <= self._wanting.keys() | self._begun.keys()
        used = [s.placed for s in everyone if s.placed is not None]
        self._slots.check_integrity(used, self._begun)

    def _begin(self, key: Key, *, urgent: bool) -> bool:
        """Begins to place an adapter that is missing, or fails it; False if there is no room."""
        lease = next(iter(self._wanting[key])).answer.request.lease
        assert lease is not None
        weights = lease.weights
        try:
            assert isinstance(weights, AdapterWeights)
            size = self._placer.num_bytes(weights)
            self._slots.check_size(key, size)
        except Exception as error:
            self._fail(key, error)
            del self._missing[key]
            self._on_finished()
            return True
        left = self._slots.reserve(key, size, self._wanting, urgent=urgent)
        if left is None:
            return False
        del self._missing[key]
        for other in left:
            if other in self._wanting:
                self._missing[other] = None
        future = self._executor.submit(_make, self._placer, key, weights, self._stream)
        self._begun[key] = future
        future.add_done_callback(partial(self._finish, key))
        self._adopt()
        return True

    def _finish(self, key: Key, future: "Future[Made]") -> None:
        self._finished.append(key)
        self._on_finished()

    def _adopt(self) -> None:
        while self._finished:
            key = self._finished.popleft()
            future = self._begun.pop(key)
            cancelled = ServerError("placing was cancelled") if future.cancelled() else None
            error = cancelled or future.exception()
            if error is None:
                placed, seconds = future.result()
                self._stream.hand_over(tensors_of(placed))
                self._slots.adopt(placed)
                self._on_placed(key[0], seconds)
            else:
                self._slots.abandon(key)
                if key in self._wanting:
                    self._fail(key, error)
            if key in self._doomed and key not in self._wanting:
                self.evict(key)

    def _fail(self, key: Key, error: BaseException) -> None:
        # Such as a device without memory for the weights: no fault of the others.
        logger.error("adapter %s cannot be placed", key[0], exc_info=error)
        self._failed[key] = error if isinstance(error, Exception) else ServerError(str(error))


def _key(sequence: Sequence) -> Key | None:
    lease = sequence.answer.request.lease
    return None if lease is None else (lease.name, lease.version)


def _make(placer: Placer, key: Key, weights: AdapterWeights, stream: SideStream) -> Made:
    """The device form, and the seconds it took. This thread waits for it, so that nobody who adopts
    it has to, and so that `weights` outlive the copies."""
    started = time.perf_counter()
    with torch.inference_mode(), stream.queueing():
        placed = placer.place(key, weights)
    stream.wait()
    return placed, time.perf_counter() - started
