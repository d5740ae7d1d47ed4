"""Adapters are placed beside the engine's own thread: it sleeps, wakes, and stops meanwhile."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from server.config import EngineConfig
from server.engine.engine import Engine
from server.engine.loader import Loader
from server.models.loader import LoadedBase
from server.types import Event, Failed, Finished
from tests.server.engine.harness import Driver, HeldAdapter, Later, Recorder

Held = dict[str, HeldAdapter]
_PROMPT = (5, 6, 7, 8, 9)


class Gate(Later):
    """Lets the test wait until there is work."""

    def __init__(self) -> None:
        super().__init__()
        self.has_work = threading.Event()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        self.has_work.set()
        return future


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def gated(loaded: LoadedBase, gate: Gate) -> Iterator[Engine]:
    engine = Engine(loaded, EngineConfig(), Recorder(), loader=gate)
    engine.start()
    yield engine
    engine.stop()


def _submit(engine: Engine, driver: Driver, *args: Any, **options: Any) -> Future[Event]:
    done: Future[Event] = Future()

    def emit(event: Event) -> None:
        if isinstance(event, Finished | Failed):
            done.set_result(event)

    engine.submit(replace(driver.request(*args, **options), emit=emit))
    return done


def test_the_engine_sleeps_until_a_placing_is_finished(
    loaded: LoadedBase, held: Held, gated: Engine, gate: Gate
) -> None:
    driver = Driver(loaded)
    done = _submit(gated, driver, _PROMPT, held["wide"], max_tokens=2)
    assert gate.has_work.wait(10)
    began = time.thread_time(), time.process_time()
    time.sleep(0.2)
    # Nothing spins meanwhile, in this thread or the engine's.
    assert time.process_time() - began[1] < 0.1
    gate.finish()
    assert isinstance(done.result(10), Finished)


def test_deadlines_end_requests_whose_adapter_is_being_placed(
    loaded: LoadedBase, held: Held, gated: Engine, gate: Gate
) -> None:
    driver = Driver(loaded)
    deadline_s = time.monotonic() + 0.1
    done = _submit(gated, driver, _PROMPT, held["wide"], deadline_s=deadline_s)
    assert isinstance(done.result(10), Failed)
    assert time.monotonic() >= deadline_s
    assert gate.jobs


def test_stop_does_not_wait_for_placings(
    loaded: LoadedBase, held: Held, gated: Engine, gate: Gate
) -> None:
    driver = Driver(loaded)
    done = _submit(gated, driver, _PROMPT, held["wide"])
    assert gate.has_work.wait(10)
    gated.stop(drain_s=0.05)
    assert isinstance(done.result(0), Failed)


def test_with_the_loader_thread(loaded: LoadedBase, held: Held) -> None:
    loader = Loader(share=0.5, is_busy=lambda: True)
    engine = Engine(loaded, EngineConfig(num_adapter_slots=2), Recorder(), loader=loader.ahead)
    engine.start()
    driver = Driver(loaded)
    done = [
        _submit(engine, driver, _PROMPT, held[name], max_tokens=4) for name in [*held, *held, *held]
    ]
    assert all(isinstance(future.result(30), Finished) for future in done)
    engine.stop()
    loader.shutdown()
