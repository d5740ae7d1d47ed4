"""The engine's thread: submit, cancel, refuse, drain."""

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace

import pytest

from server.config import EngineConfig
from server.engine.engine import Engine
from server.errors import (
    AdapterRefusedError,
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
    assert terminal.reason is FinishReason.LENGTH
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


def test_receiver_that_raises_ends_nobody_else(engine: Engine, driver: Driver) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("gone")

    engine.submit(replace(driver.request((1, 2), max_tokens=10), emit=broken))
    waiter = submit(engine, driver.request((1, 2), max_tokens=10))
    assert isinstance(waiter.wait(), Finished)


def test_overflowing_adapter_harms_only_itself(
    loaded: LoadedBase, held: dict[str, HeldAdapter]
) -> None:
    alone = Driver(loaded)
    names = [None, "wide", "prompt", "narrow"]
    prompt = (9, 8, 7, 6, 5)

    def run(driver: Driver, hostile: HeldAdapter | None) -> list[tuple[int, ...]]:
        """Small blocks of few, so that everyone inherits the hostile one's."""
        inboxes = []
        for name in [*names, *names]:
            if hostile is not None:
                failing = driver.add(prompt, hostile, max_tokens=3)
            inboxes.append(driver.add(prompt, held[name] if name else None, max_tokens=9))
        driver.run()
        if hostile is not None:
            assert isinstance(failing.error, AdapterRefusedError)
            assert "overflow" in str(failing.error)
        return [inbox.finished.token_ids for inbox in inboxes]

    weights = held["late"].weights
    modules = {
        path: replace(module, a=module.a * 1e37, b=module.b * 1e37)
        for path, module in held["wide"].weights.modules.items()
    }
    hostile = HeldAdapter("hostile", replace(weights, modules=modules))
    expected = run(alone, None)
    assert run(Driver(loaded, block_size=4, num_blocks=40), hostile) == expected


def test_adapter_that_cannot_be_placed_fails_alone(
    loaded: LoadedBase, held: dict[str, HeldAdapter]
) -> None:
    driver = Driver(loaded)
    broken = HeldAdapter("broken", object())
    waiting = driver.add((1, 2), broken)
    beside = driver.add((1, 2), held["wide"])
    driver.run()
    assert waiting.error
    assert broken.num_released == 1
    assert beside.finished


def test_evict_waits_for_the_last_user(loaded: LoadedBase, held: dict[str, HeldAdapter]) -> None:
    driver = Driver(loaded)
    driver.add((1, 2), held["wide"], max_tokens=5)
    driver.step()
    assert driver.core.stats().slots == ("wide@v1",)
    driver.core.evict("wide", "v1")
    driver.core.evict("unknown", "v1")
    assert driver.core.stats().slots == ("wide@v1",)
    driver.run()
    assert driver.core.stats().slots == ()


def test_versions_of_one_name_run_side_by_side(
    loaded: LoadedBase, held: dict[str, HeldAdapter]
) -> None:
    old = HeldAdapter("task", held["wide"].weights, "v1")
    new = HeldAdapter("task", held["narrow"].weights, "v2")
    driver = Driver(loaded)
    found = [driver.add((5, 6, 7), lease, max_tokens=10) for lease in (old, new)]
    driver.run()
    expected = [driver.add((5, 6, 7), held[name], max_tokens=10) for name in ("wide", "narrow")]
    driver.run()
    assert [i.finished.token_ids for i in found] == [i.finished.token_ids for i in expected]
    assert found[0].finished.token_ids != found[1].finished.token_ids


def test_least_recently_used_slot_goes(loaded: LoadedBase, held: dict[str, HeldAdapter]) -> None:
    driver = Driver(loaded, num_adapter_slots=2)
    for name in ("wide", "narrow", "wide", "late", "wide"):
        driver.add((1, 2), held[name], max_tokens=2)
        driver.run()
    assert driver.metrics.placed == ["wide", "narrow", "late"]
    assert driver.core.stats().slots == ("late@v1", "wide@v1")


def test_higher_priority_first(loaded: LoadedBase) -> None:
    driver = Driver(loaded, max_batch_size=1)
    order: list[str] = []

    def add(name: str, priority: int) -> None:
        request = driver.request((1, 2), max_tokens=2, priority=priority)
        driver.core.add(
            replace(request, emit=lambda e: order.append(name) if isinstance(e, Finished) else None)
        )

    for name, priority in (("a", 0), ("b", 0), ("c", 3), ("d", -1), ("e", 3)):
        add(name, priority)
    driver.run()
    assert order == ["c", "e", "a", "b", "d"]


def test_prefill_is_chunked_and_shares_steps_with_decode(loaded: LoadedBase) -> None:
    driver = Driver(loaded, max_step_tokens=16)
    driver.add((1, 2, 3), max_tokens=30)
    driver.step()
    driver.add(tuple(range(1, 101)), max_tokens=2)
    driver.step()
    record = driver.metrics.steps[-1]
    assert (record.num_decode_tokens, record.num_prefill_tokens) == (1, 15)
    driver.run()
    assert max(s.num_prefill_tokens + s.num_decode_tokens for s in driver.metrics.steps) <= 16


def test_end_of_sequence_and_min_tokens(loaded: LoadedBase) -> None:
    driver = Driver(loaded)
    free = driver.add((5, 6, 7), max_tokens=40)
    driver.run()
    # Whatever the second token is, let it be the end of sequence.
    eos = free.finished.token_ids[1]
    base = replace(loaded, eos_token_ids=frozenset({eos}))
    driver = Driver(base)
    first = driver.add((5, 6, 7), max_tokens=40, ignore_eos=False)
    ignored = driver.add((5, 6, 7), max_tokens=40, ignore_eos=True)
    later = driver.add((5, 6, 7), max_tokens=40, ignore_eos=False, min_tokens=5)
    driver.run()
    assert first.finished.token_ids == free.finished.token_ids[:2]
    assert first.finished.reason is FinishReason.EOS
    assert ignored.finished.token_ids == free.finished.token_ids
    assert eos not in later.finished.token_ids[:5]


def test_stop_string_ends_the_generation(loaded: LoadedBase) -> None:
    driver = Driver(loaded)
    free = driver.add((5, 6, 7), max_tokens=30)
    driver.run()
    text = free.finished.text
    stop = text[4:7]
    inbox = driver.add((5, 6, 7), max_tokens=30, stop=("never here", stop))
    driver.run()
    finished = inbox.finished
    assert finished.reason is FinishReason.STOP
    assert (finished.text, finished.stop) == (text[: text.index(stop)], stop)
    assert len(finished.token_ids) < 30


def test_stop_strings_wait_for_min_tokens(loaded: LoadedBase) -> None:
    driver = Driver(loaded)
    free = driver.add((5, 6, 7), max_tokens=12)
    driver.run()
    # One letter that the very first tokens hold already.
    stop = free.finished.text[0]
    early = driver.add((5, 6, 7), max_tokens=12, stop=(stop,))
    late = driver.add((5, 6, 7), max_tokens=12, stop=(stop,), min_tokens=12)
    driver.run()
    assert early.finished.reason is FinishReason.STOP
    assert len(late.finished.token_ids) == 12


def test_seeds_do_not_depend_on_the_batch(loaded: LoadedBase, held: dict[str, HeldAdapter]) -> None:
    options = {"temperature": 1.0, "top_p": 0.9, "max_tokens": 15}
    driver = Driver(loaded)
    alone = []
    for seed in range(6):
        alone.append(driver.add((5, 6, 7), seed=seed, **options))
        driver.run()
    together = [driver.add((5, 6, 7), seed=seed, **options) for seed in range(6)]
    driver.add((1, 2, 3), held["wide"], max_tokens=9)
    driver.run()
    found = [inbox.finished.token_ids for inbox in together]
    assert found == [inbox.finished.token_ids for inbox in alone]
    assert len(set(found)) == 6


def test_top_logprobs_do_not_depend_on_the_batch(loaded: LoadedBase) -> None:
    driver = Driver(loaded)
    inboxes = {n: driver.add((5, 6, 7), max_tokens=3, num_logprobs=n) for n in (0, 2, 5)}
    driver.run()
    for asked, inbox in inboxes.items():
        assert [len(entry.top) for entry in inbox.finished.logprobs] == [asked] * 3


def test_ended_requests_are_forgotten_before_their_deadline(loaded: LoadedBase) -> None:
    driver = Driver(loaded)
    far = time.monotonic() + 1e6
    first = weakref.ref(driver.add((1, 2), max_tokens=1, deadline_s=far))
    driver.run()
    for _ in range(100):
        driver.add((1, 2), max_tokens=1, deadline_s=far)
        driver.run()
    gc.collect()
    assert first() is None
    waiting = driver.add((1, 2), max_tokens=2000, deadline_s=time.monotonic() + 0.05)
    driver.run()
    assert isinstance(waiting.error, DeadlineError)
