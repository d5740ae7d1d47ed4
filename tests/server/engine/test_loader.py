"""The thread that loads adapters: what comes first, and when it rests."""

import threading

import pytest

from server.engine.loader import Loader


class Clock:
    """Stands in for the module `time`: goes on when the test says so, or a job that works."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._now_s = self._worked_s = 0.0
        self._num_looks = 0

    def monotonic(self) -> float:
        with self._changed:
            self._num_looks += 1
            self._changed.notify_all()
            return self._now_s

    def thread_time(self) -> float:
        return self._worked_s

    def work(self, seconds: float) -> float:
        """A job takes that long of its thread; returns when it ended."""
        self._worked_s += seconds
        self._now_s += seconds
        return self._now_s

    def go_to(self, now_s: float) -> None:
        """Everybody is idle until then."""
        self._now_s = now_s

    def looked_at(self, times: int = 8) -> None:
        """Waits until the loader, which has something to do later, has looked so often whether its
        time has come."""
        with self._changed:
            wanted = self._num_looks + times
            assert self._changed.wait_for(lambda: self._num_looks >= wanted, 60)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("server.engine.loader.time", clock)
    return clock


def test_the_loader_rests_in_proportion_while_requests_run(clock: Clock) -> None:
    busy = [True]
    loader = Loader(share=0.2, is_busy=lambda: busy[0])
    first, second = (loader.submit(clock.work, 0.02) for _ in range(2))
    assert first.result(60) == pytest.approx(0.02)
    # It worked 20 ms, and rests four times that.
    clock.looked_at()
    clock.go_to(0.099)
    clock.looked_at()
    assert not second.done()
    clock.go_to(0.101)
    assert second.result(60) == pytest.approx(0.121)
    # Whoever is waited for comes first, and at once; the rest gets longer by its own.
    slow = loader.submit(clock.work, 0.02)
    clock.looked_at()
    assert loader.ahead.submit(clock.work, 0.02).result(60) == pytest.approx(0.141)
    clock.looked_at()
    clock.go_to(0.28)
    clock.looked_at()
    assert not slow.done()
    clock.go_to(0.282)
    assert slow.result(60) == pytest.approx(0.302)
    # Nobody is disturbed: no rest.
    busy[0] = False
    ends = [future.result(60) for future in [loader.submit(clock.work, 0.02) for _ in range(4)]]
    assert ends == pytest.approx([0.322, 0.342, 0.362, 0.382])
    loader.shutdown()


def test_a_long_job_rests_between_its_parts(clock: Clock) -> None:
    loader = Loader(share=0.25, is_busy=lambda: True)
    parts: list[float] = []

    def work() -> None:
        for _ in range(3):
            clock.work(0.01)
            loader.breathe()
            parts.append(clock.monotonic())

    job = loader.submit(work)
    clock.looked_at()
    clock.go_to(0.039)
    clock.looked_at()
    assert parts == []
    # In the middle of it.
    assert loader.ahead.submit(clock.monotonic).result(60) == 0.039
    for now_s in (0.041, 0.082):
        clock.go_to(now_s)
        clock.looked_at()
        assert parts[-1:] == [now_s]
    clock.go_to(0.123)
    job.result(60)
    assert parts == [0.041, 0.082, 0.123]
    loader.shutdown()
    # Elsewhere it does nothing.
    clock.work(1.0)
    loader.breathe()


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
