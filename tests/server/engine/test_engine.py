"""The engine's thread: submit, cancel, refuse, drain."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from server.config import EngineConfig
from server.engine.engine import Engine
from server.errors import (
    DeadlineError,
    DrainingError,
    InvalidRequestError,
    QueueFullError,
    RequestCancelledError,
)
from server.models.loader import LoadedBase
from server.types import Event, Failed, Finished, FinishReason, Request, Scored
from tests.server.engine.harness import Driver, HeldAdapter, Inbox, Recorder


class Waiter(Inbox):
    """An inbox that another thread can wait on."""

    def __init__(self) -> None:
        super().__init__()
        self._done = threading.Event()

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if isinstance(event, Finished | Scored | Failed):
            self._done.set()

    def wait(self) -> Finished | Scored | Failed:
        assert self._done.wait(30), "no terminal event"
        assert self.terminal is not None
        return self.terminal


@pytest.fixture
def engine(loaded: LoadedBase) -> Iterator[Engine]:
    engine = Engine(loaded, EngineConfig(max_queue_size=4, max_batch_size=2), Recorder())
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def driver(loaded: LoadedBase) -> Driver:
    """Makes requests."""
    return Driver(loaded)


def submit(engine: Engine, request: Request) -> Waiter:
    waiter = Waiter()
    engine.submit(replace(request, emit=waiter))
    return waiter


def test_generates(engine: Engine, driver: Driver) -> None:
    waiter = submit(engine, driver.request((1, 2, 3), max_tokens=5))
    terminal = waiter.wait()
    assert isinstance(terminal, Finished)
    assert len(waiter.finished.token_ids) == 5
    assert waiter.finished.reason is FinishReason.LENGTH
    usage = terminal.usage
    assert (usage.num_prompt_tokens, usage.num_completion_tokens) == (3, 5)
    assert 0 <= usage.queue_s <= usage.first_token_s <= usage.total_s
    assert usage.max_batch_size == 1


def test_without_stream_only_the_end_is_emitted(engine: Engine, driver: Driver) -> None:
    waiter = submit(engine, driver.request((1, 2), max_tokens=5, stream=False, num_logprobs=1))
    waiter.wait()
    assert len(waiter.events) == 1
    assert len(waiter.finished.logprobs) == 5


def test_cancel_frees_everything(
    engine: Engine, driver: Driver, held: dict[str, HeldAdapter]
) -> None:
    request = driver.request((1, 2, 3), held["wide"], max_tokens=2000)
    waiter = submit(engine, request)
    while not waiter.events:
        time.sleep(0.001)
    engine.cancel(request.request_id)
    terminal = waiter.wait()
    assert isinstance(terminal, Failed)
    assert isinstance(terminal.error, RequestCancelledError)
    assert held["wide"].num_released == 1
    assert engine.stats().num_used_blocks == 0
    engine.cancel(request.request_id)
    engine.cancel("never seen")


def test_full_queue_refuses_with_a_delay(engine: Engine, driver: Driver) -> None:
    waiters: list[Waiter] = []

    def fill() -> None:
        for _ in range(100):
            waiters.append(submit(engine, driver.request((1, 2), max_tokens=1500)))

    with pytest.raises(QueueFullError) as error:
        fill()
    assert 0.1 <= error.value.retry_delay_s <= 30
    assert 4 <= len(waiters) <= 6
    engine.stop()
    assert all(isinstance(waiter.wait(), Failed) for waiter in waiters)


def test_stop_drains(engine: Engine, driver: Driver) -> None:
    waiters = [submit(engine, driver.request((1, 2), max_tokens=20)) for _ in range(4)]
    engine.stop(drain_s=30)
    assert all(isinstance(waiter.terminal, Finished) for waiter in waiters)
    with pytest.raises(DrainingError):
        submit(engine, driver.request((1, 2)))


def test_stop_fails_what_does_not_finish(engine: Engine, driver: Driver) -> None:
    waiters = [submit(engine, driver.request((1, 2), max_tokens=2000)) for _ in range(4)]
    engine.stop(drain_s=0.02)
    assert all(isinstance(waiter.error, DrainingError) for waiter in waiters)
    assert engine.stats().num_used_blocks == 0


def test_stop_before_start(loaded: LoadedBase, driver: Driver) -> None:
    engine = Engine(loaded, EngineConfig(), Recorder())
    waiter = submit(engine, driver.request((1, 2)))
    engine.stop()
    assert isinstance(waiter.error, DrainingError)


def test_deadlines(engine: Engine, driver: Driver) -> None:
    with pytest.raises(DeadlineError):
        submit(engine, driver.request((1, 2), deadline_s=time.monotonic() - 1))
    waiter = submit(
        engine, driver.request((1, 2), max_tokens=2000, deadline_s=time.monotonic() + 0.05)
    )
    waiter.wait()
    assert isinstance(waiter.error, DeadlineError)


def test_request_ids_are_unique_while_running(engine: Engine, driver: Driver) -> None:
    request = driver.request((1, 2), max_tokens=2000)
    submit(engine, request)
    with pytest.raises(InvalidRequestError, match="request_id"):
        submit(engine, request)
    engine.cancel(request.request_id)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": ()}, "input: the prompt has no tokens"),
        ({"prompt": (1,) * 2049}, "prompt of 2049 tokens exceeds the context of 2048"),
        ({"prompt": (1, 320)}, "token id 320 is outside the vocabulary of 320"),
        ({"prompt": (1, -1)}, "token id -1 is outside"),
        ({"prompt": (1,), "max_tokens": 0}, "stopping.max_tokens"),
        (
            {"prompt": (1,) * 2047, "continuations": ((1,), (1, 1, 1))},
            r"continuations\[1\]: .* exceed the context of 2048",
        ),
        ({"prompt": (1,), "continuations": ((400,),)}, r"continuations\[0\]: token id 400"),
    ],
)
def test_impossible_requests(
    engine: Engine, driver: Driver, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        submit(engine, driver.request(**options))  # type: ignore[arg-type]


def test_virtual_tokens_count(engine: Engine, driver: Driver, held: dict[str, HeldAdapter]) -> None:
    with pytest.raises(InvalidRequestError, match=r"2044 tokens \(\+ 5 virtual\) .* of 2048"):
        submit(engine, driver.request((1,) * 2044, held["prompt"]))
    waiter = submit(engine, driver.request((1,) * 2043, held["prompt"], max_tokens=9))
    waiter.wait()
    # The context is full; the one token that follows it has no position of its own.
    assert len(waiter.finished.token_ids) == 1
    assert waiter.finished.reason is FinishReason.LENGTH


class BreaksLater(HeldAdapter):
    """A lease that answers what `submit` checks, and then fails."""

    def __init__(self, name: str, failing: str) -> None:
        super().__init__(name, None)
        self._failing, self._num_reads = failing, 0

    def __getattribute__(self, name: str) -> object:
        if not name.startswith("_") and name == self._failing:
            self._num_reads += 1
            if self._num_reads > 1:
                raise RuntimeError(f"{name} is gone")
        return super().__getattribute__(name)


@pytest.mark.parametrize("failing", ["num_virtual_tokens", "release"])
def test_what_fails_between_submit_and_the_first_step_ends_alone(
    engine: Engine, driver: Driver, failing: str
) -> None:
    broken = BreaksLater("broken", failing)
    if failing == "release":
        broken.release()
    waiters = [
        submit(engine, driver.request((1, 2), lease, max_tokens=3)) for lease in (broken, None)
    ]
    assert isinstance(waiters[0].wait(), Failed)
    assert isinstance(waiters[1].wait(), Finished)
    after = submit(engine, driver.request((1, 2), max_tokens=3))
    assert isinstance(after.wait(), Finished)
    assert broken.num_released == 1
    assert engine.stats().num_used_blocks == 0


def test_receiver_that_raises_ends_nobody_else(engine: Engine, driver: Driver) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("gone")

    engine.submit(replace(driver.request((1, 2), max_tokens=10), emit=broken))
    waiter = submit(engine, driver.request((1, 2), max_tokens=10))
    assert isinstance(waiter.wait(), Finished)
