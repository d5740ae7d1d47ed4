"""The thread that loads adapters, beside the engine's and in its favour."""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

from server.models.processor import compute_with

P = ParamSpec("P")
T = TypeVar("T")

# As much as an unprivileged thread can give way.
_NICE = 19
# While it rests, how often it looks whether anybody is disturbed at all.
_LOOK_S = 0.01

_Job = tuple["Future[Any]", Callable[[], Any]]


class Loader(Executor):
    """One thread at the lowest priority, with one thread's worth of torch, that works at most
    `share` of the time while the engine is busy: after a job it rests in proportion to the
    processor time that the job took.

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
        # Where the system has no such thing, the rests alone must do.
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        compute_with(1)
        while (job := self._next()) is not None:
            future, work = job
            if not future.set_running_or_notify_cancel():
                continue
            began = time.thread_time()
            try:
                result = work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            rest_s = (time.thread_time() - began) * (1 / self._share - 1)
            self._rest_until = max(self._rest_until, time.monotonic()) + rest_s
            # An adapter must not stay in memory because this frame still knows it.
            del job, future, work
            result = None

    def _next(self) -> _Job | None:
        """The next job, once its time has come; None once closed and empty."""
        with self._changed:
            while True:
                if self._ahead:
                    return self._ahead.popleft()
                rest_s = self._rest_until - time.monotonic()
                if self._jobs and (rest_s <= 0 or self._is_closed or not self._is_busy()):
                    self._rest_until = min(self._rest_until, time.monotonic())
                    return self._jobs.popleft()
                if self._is_closed:
                    return None
                self._changed.wait(min(rest_s, _LOOK_S) if self._jobs else None)


class _Ahead(Executor):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._loader.submit_ahead(fn, *args, **kwargs)
