"""The thread that loads adapters, beside the engine's and in its favour."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

from server.models.processor import compute_with

P = ParamSpec("P")
T = TypeVar("T")

# Processor time after which it rests: much less than a step takes.
_BREATH_S = 0.002
# While it rests, how often it looks whether anybody is disturbed at all.
_LOOK_S = 0.01

_Job = tuple["Future[Any]", Callable[[], Any]]


class Loader(Executor):
    """One thread that computes with one thread, and works at most `share` of the time while the
    engine is busy: it rests in proportion to the processor time that it took, between jobs and
    wherever a job calls `breathe`.

    Its priority is not lower than the engine's: preempted while it holds the interpreter's lock, it
    would hold up the engine.

    Jobs of `submit` read adapters from the store, in order. Those of `ahead` make device forms:
    somebody may wait for one right now, so they come first and do not wait for a rest, though they
    prolong it.
    """

    def __init__(self, share: float, is_busy: Callable[[], bool]) -> None:
        """`is_busy` tells whether requests run that could be disturbed; from any thread."""
        self._share = share
        self._is_busy = is_busy
        self._changed = threading.Condition()
        self._ahead: deque[_Job] = deque()
        self._jobs: deque[_Job] = deque()
        self._is_closed = False
        self._worked_until = 0.0
        self._rest_until = 0.0
        self.ahead: Executor = _Ahead(self)
        """Its jobs come first."""
        self._thread = threading.Thread(target=self._run, name="adapters", daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Runs `fn` after all that was submitted before. Raises RuntimeError once closed."""
        return self._enter(self._jobs, lambda: fn(*args, **kwargs))

    def submit_ahead(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Runs `fn` before all that `submit` has not begun. Raises RuntimeError once closed."""
        return self._enter(self._ahead, lambda: fn(*args, **kwargs))

    def breathe(self) -> None:
        """Rests, if it is time. To be called by long jobs every so often; elsewhere it does
        nothing."""
        if threading.current_thread() is not self._thread:
            return
        if time.thread_time() - self._worked_until < _BREATH_S:
            return
        self._owe_rest()
        while (job := self._next(breathing=True)) is not None:
            self._do(job)
            self._owe_rest()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more jobs; with `cancel_futures` those that are not begun never run."""
        with self._changed:
            self._is_closed = True
            left = [*self._ahead, *self._jobs] if cancel_futures else []
            if cancel_futures:
                self._ahead.clear()
                self._jobs.clear()
            self._changed.notify()
        for future, _ in left:
            future.cancel()
        if wait:
            self._thread.join()

    def _enter(self, queue: deque[_Job], work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the loader is closed")
            queue.append((future, work))
            self._changed.notify()
        return future

    def _run(self) -> None:
        compute_with(1)
        while (job := self._next()) is not None:
            self._do(job)
            self._owe_rest()
            # An adapter must not stay in memory because this frame still knows it.
            del job

    def _do(self, job: _Job) -> None:
        future, work = job
        if future.set_running_or_notify_cancel():
            try:
                result = work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

    def _owe_rest(self) -> None:
        """Notes the rest that is due for the work since it was last noted."""
        now = time.thread_time()
        rest_s = (now - self._worked_until) * (1 / self._share - 1)
        self._worked_until = now
        self._rest_until = max(self._rest_until, time.monotonic()) + rest_s

    def _next(self, *, breathing: bool = False) -> _Job | None:
        """The next job, once its time has come; None once closed and empty, or when a job that is
        `breathing` may go on."""
        with self._changed:
            while True:
                if self._ahead:
                    return self._ahead.popleft()
                rest_s = self._rest_until - time.monotonic()
                if rest_s <= 0 or self._is_closed or not self._is_busy():
                    self._rest_until = min(self._rest_until, time.monotonic())
                    if breathing:
                        return None
                    if self._jobs:
                        return self._jobs.popleft()
                    if self._is_closed:
                        return None
                can_wait = not (breathing or self._jobs)
                self._changed.wait(None if can_wait else min(max(rest_s, 0), _LOOK_S))


class _Ahead(Executor):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._loader.submit_ahead(fn, *args, **kwargs)
