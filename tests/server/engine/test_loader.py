"""The thread that loads adapters: what comes first, and when it rests."""

import threading
import time
from itertools import pairwise

import pytest

from server.engine.loader import Loader


def test_the_loader_rests_in_proportion_while_requests_run() -> None:
    busy = [True]
    loader = Loader(share=0.2, is_busy=lambda: busy[0])

    def work() -> float:
        began = time.thread_time()
        while time.thread_time() - began < 0.02:
            pass
        return time.monotonic()

    ends = [future.result(10) for future in [loader.submit(work) for _ in range(4)]]
    assert all(b - a >= 0.1 for a, b in pairwise(ends))
    # Whoever is waited for comes first, and at once.
    slow = loader.submit(work)
    began = time.monotonic()
    urgent = loader.ahead.submit(work).result(10)
    assert urgent - began < 0.07
    assert slow.result(10) > urgent + 0.08
    busy[0] = False
    began = time.monotonic()
    for future in [loader.submit(work) for _ in range(4)]:
        future.result(10)
    assert time.monotonic() - began < 0.3
    loader.shutdown()


def test_a_long_job_rests_between_its_parts() -> None:
    loader = Loader(share=0.25, is_busy=lambda: True)
    parts: list[float] = []

    def work() -> None:
        for _ in range(5):
            began = time.thread_time()
            while time.thread_time() - began < 0.01:
                pass
            loader.breathe()
            parts.append(time.monotonic())

    job = loader.submit(work)
    while len(parts) < 2:
        time.sleep(0.001)
    # In the middle of it.
    assert loader.ahead.submit(lambda: len(parts)).result(10) < 5
    job.result(10)
    assert all(b - a >= 0.035 for a, b in pairwise(parts))
    loader.shutdown()
    began = time.monotonic()
    loader.breathe()
    assert time.monotonic() - began < 0.02


def test_a_closed_loader_takes_no_work() -> None:
    loader = Loader(share=1.0, is_busy=lambda: False)
    started, go_on = threading.Event(), threading.Event()

    def work() -> str:
        started.set()
        assert go_on.wait(10)
        return "done"

    first = loader.submit(work)
    assert started.wait(10)
    never = loader.submit(work)
    loader.shutdown(wait=False, cancel_futures=True)
    go_on.set()
    assert first.result(10) == "done"
    assert never.cancelled()
    with pytest.raises(RuntimeError):
        loader.submit(work)
    failing = Loader(share=1.0, is_busy=lambda: False)
    with pytest.raises(ZeroDivisionError):
        failing.submit(lambda: 1 / 0).result(10)
    failing.shutdown()
