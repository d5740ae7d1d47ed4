"""Step by step: adapters, order, chunks, ends, seeds."""

import gc
import time
import weakref
from dataclasses import replace

from server.errors import (
    AdapterRefusedError,
    DeadlineError,
)
from server.models.loader import LoadedBase
from server.types import Finished, FinishReason, Tier
from tests.server.engine.harness import Driver, HeldAdapter, overflowing


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

    hostile = HeldAdapter("hostile", overflowing(held["wide"].weights))
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
    assert [(event.name, event.tier) for event in driver.changes] == [
        ("wide", Tier.DEVICE),
        ("narrow", Tier.DEVICE),
        ("narrow", Tier.HOST),
        ("late", Tier.DEVICE),
    ]


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


def test_newcomer_starts_at_the_next_free_place(
    loaded: LoadedBase, held: dict[str, HeldAdapter]
) -> None:
    driver = Driver(loaded, max_batch_size=2, max_queue_size=2000)
    busy = [driver.add((1, 2), held["wide"], max_tokens=4) for _ in range(1000)]
    for _ in range(10):
        driver.step()
    num_ended = sum(inbox.terminal is not None for inbox in busy)
    newcomer = driver.add((1, 2), held["narrow"], max_tokens=1)
    while newcomer.terminal is None:
        driver.step()
    # Those that ran when it came, and nobody else.
    assert newcomer.finished
    assert sum(inbox.terminal is not None for inbox in busy) <= num_ended + 2


def test_who_waits_for_a_slot_is_overtaken_until_the_bound(
    loaded: LoadedBase, held: dict[str, HeldAdapter]
) -> None:
    now = [0.0]
    driver = Driver(loaded, clock=lambda: now[0], num_adapter_slots=1, max_wait_s=30.0)
    driver.add((1, 2), held["wide"], max_tokens=60)
    driver.step()
    blocked = driver.add((1, 2), held["narrow"], max_tokens=1)
    beside = [driver.add((1, 2), held[name] if name else None) for name in ("wide", None)]
    driver.step()
    assert all(inbox.events for inbox in beside)
    now[0] = 30.0
    late = driver.add((1, 2), held["wide"], max_tokens=1)
    for _ in range(20):
        driver.step()
    assert not blocked.events
    assert not late.events
    driver.run()
    assert driver.metrics.placed == ["wide", "narrow", "wide"]
    assert blocked.finished
    assert late.finished


def test_rows_of_a_prompt_are_prefill_however_few(loaded: LoadedBase) -> None:
    driver = Driver(loaded, max_step_tokens=4)
    driver.add((1, 2, 3, 4, 5), max_tokens=3)
    driver.run()
    rows = [(step.num_prefill_tokens, step.num_decode_tokens) for step in driver.metrics.steps]
    assert rows == [(4, 0), (1, 0), (0, 1), (0, 1)]


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
