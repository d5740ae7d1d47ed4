"""Adapters are placed beside the steps: who waits, who does not, and what makes room."""

import gc
import random
import weakref
from dataclasses import replace
from typing import Any

import pytest

from server.engine.placing import Placer
from server.errors import AdapterMemoryError, RequestCancelledError
from server.models.loader import LoadedBase
from server.types import Finished, Tier
from tests.server.engine.conftest import Tiny
from tests.server.engine.harness import (
    Driver,
    HeldAdapter,
    Inbox,
    Later,
    read_adapter,
)

Held = dict[str, HeldAdapter]
_PROMPT = (5, 6, 7, 8, 9)


@pytest.fixture
def later() -> Later:
    return Later()


def test_others_run_while_an_adapter_is_placed(
    loaded: LoadedBase, held: Held, later: Later
) -> None:
    alone = Driver(loaded)
    expected = alone.add(_PROMPT, held["wide"])
    alone.run()
    driver = Driver(loaded, loader=later)
    beside = driver.add(_PROMPT, max_tokens=6)
    waiting = driver.add(_PROMPT, held["wide"])
    while beside.terminal is None:
        assert driver.step()
    assert not waiting.events
    assert not driver.step()
    assert driver.core.stats().slots == ()
    later.finish()
    driver.run()
    assert waiting.finished.token_ids == expected.finished.token_ids
    assert driver.metrics.placed == ["wide"]


def test_who_waits_for_an_adapter_is_overtaken_even_when_overdue(
    loaded: LoadedBase, held: Held, later: Later
) -> None:
    now = [0.0]
    driver = Driver(loaded, loader=later, clock=lambda: now[0], max_wait_s=30.0)
    waiting = driver.add(_PROMPT, held["wide"], priority=9)
    assert not driver.step()
    now[0] = 31.0
    beside = driver.add(_PROMPT, max_tokens=1)
    driver.step()
    assert beside.finished
    later.finish()
    driver.run()
    assert waiting.finished


def test_a_failed_placing_fails_its_own_requests(
    loaded: LoadedBase, held: Held, later: Later
) -> None:
    driver = Driver(loaded, loader=later)
    failing = [
        driver.add(_PROMPT, held["wide"], num_samples=3),
        driver.add(_PROMPT, held["wide"], continuations=((1,), (2, 3))),
    ]
    beside = driver.add(_PROMPT, held["narrow"])
    driver.step()
    future, _ = later.jobs.popleft()
    future.set_exception(MemoryError("no room on the device"))
    later.finish()
    driver.run()
    assert all(isinstance(inbox.error, MemoryError) for inbox in failing)
    assert held["wide"].num_released == 2
    assert beside.finished
    again = driver.add(_PROMPT, held["wide"])
    driver.step()
    later.finish()
    driver.run()
    assert again.finished


def test_cancelled_while_its_adapter_is_placed(
    loaded: LoadedBase, held: Held, later: Later
) -> None:
    driver = Driver(loaded, loader=later)
    request = driver.request(_PROMPT, held["wide"])
    inbox = driver.submit(request)
    driver.step()
    driver.core.cancel(request.request_id)
    assert isinstance(inbox.error, RequestCancelledError)
    # As when its version left host memory with the lease.
    driver.core.evict("wide", "v1")
    driver.core.check_integrity()
    later.finish()
    driver.step()
    assert driver.core.stats().slots == ()


def test_evicted_while_queued_is_not_placed_twice(
    loaded: LoadedBase, held: Held, later: Later
) -> None:
    """The message that an earlier load has left host memory comes late."""
    driver = Driver(loaded, loader=later, max_batch_size=1)
    first = driver.add(_PROMPT, held["wide"], max_tokens=3)
    driver.step()
    later.finish()
    driver.step()
    queued = driver.add(_PROMPT, held["wide"], max_tokens=3)
    driver.core.evict("wide", "v1")
    driver.run()
    assert first.finished.token_ids == queued.finished.token_ids
    assert driver.metrics.placed == ["wide"]
    assert driver.core.stats().slots == ()


def test_a_slot_waits_for_who_is_queued(loaded: LoadedBase, held: Held) -> None:
    """Prefetching for newcomers does not take the slots of those who wait longer."""
    driver = Driver(loaded, num_adapter_slots=2, max_batch_size=1)
    driver.add(_PROMPT, held["wide"], max_tokens=8)
    driver.step()
    for name in ("narrow", "late", "prompt", "narrow"):
        driver.add(_PROMPT, held[name], max_tokens=2)
    driver.run()
    assert driver.metrics.placed == ["wide", "narrow", "late", "prompt"]


def test_whose_turn_it_is_takes_the_slot_of_who_waits(
    loaded: LoadedBase, held: Held, later: Later
) -> None:
    driver = Driver(loaded, loader=later, num_adapter_slots=1)
    waiting = driver.add(_PROMPT, held["narrow"], max_tokens=2)
    driver.step()
    urgent = driver.add(_PROMPT, held["late"], max_tokens=2, priority=5)
    later.finish()
    assert not driver.step()
    assert driver.metrics.placed == ["narrow"]
    later.finish()
    while urgent.terminal is None:
        assert driver.step()
        assert not waiting.events
    driver.step()
    later.finish()
    driver.run()
    assert waiting.finished
    assert driver.metrics.placed == ["narrow", "late", "narrow"]


def _bytes(driver: Driver) -> int:
    return driver.core._slots.num_bytes


def test_slots_share_bytes_without_padding(loaded: LoadedBase, held: Held) -> None:
    roomy = Driver(loaded)
    sizes = {}
    for name, lease in held.items():
        before = _bytes(roomy)
        roomy.add(_PROMPT, lease, max_tokens=1)
        roomy.run()
        sizes[name] = _bytes(roomy) - before
    assert sizes["wide"] > sizes["narrow"] > sizes["late"] > sizes["prompt"] > 0
    placer = Placer(loaded.decoder, loaded.dtype, loaded.device)
    expected = {name: placer.num_bytes(lease.weights) for name, lease in held.items()}
    for name, size in sizes.items():
        assert (
            size
            <= expected[name]
            <= size + 4 * sum(g.columns[-1].stop for g in loaded.decoder.groups) * 2
        )
    assert all(sizes[name] == expected[name] for name in ("wide", "narrow", "late", "prompt"))
    small = sizes["narrow"] + sizes["late"] + sizes["prompt"]
    driver = Driver(loaded, adapter_slot_bytes=small)
    for name in ("narrow", "late", "prompt", "narrow", "late", "prompt"):
        driver.add(_PROMPT, held[name], max_tokens=1)
        driver.run()
    assert driver.metrics.placed == ["narrow", "late", "prompt"]
    assert _bytes(driver) == small
    most = max(expected.values())
    tight = Driver(loaded, adapter_slot_bytes=most)
    inboxes = [tight.add(_PROMPT, held[name], max_tokens=3) for name in [*held, *held]]
    while tight.core.has_work:
        tight.step()
        assert _bytes(tight) <= most
    assert all(inbox.finished for inbox in inboxes)
    assert {event.tier for event in tight.changes} == {Tier.DEVICE, Tier.HOST}


def test_what_can_never_fit_is_refused(loaded: LoadedBase, held: Held) -> None:
    driver = Driver(loaded, adapter_slot_bytes=1000)
    refused = driver.add(_PROMPT, held["wide"])
    beside = driver.add(_PROMPT)
    driver.run()
    assert isinstance(refused.error, AdapterMemoryError)
    assert "'wide'" in str(refused.error)
    assert "engine.adapter_slot_bytes 1000" in str(refused.error)
    assert beside.finished


def test_a_pinned_adapter_stays_when_possible(loaded: LoadedBase, held: Held) -> None:
    driver = Driver(loaded, num_adapter_slots=2)
    driver.core.pin("wide", "v1", True)
    for name in ("wide", "narrow", "late", "narrow"):
        driver.add(_PROMPT, held[name], max_tokens=1)
        driver.run()
    assert "wide@v1" in driver.core.stats().slots
    # Not possible: two others run at once.
    for name in ("narrow", "late"):
        driver.add(_PROMPT, held[name], max_tokens=2)
    driver.run()
    assert "wide@v1" not in driver.core.stats().slots
    driver.core.pin("narrow", "v1", True)
    driver.core.pin("narrow", "v1", False)
    for name in ("late", "wide"):
        driver.add(_PROMPT, held[name], max_tokens=1)
        driver.run()
    assert "narrow@v1" not in driver.core.stats().slots


@pytest.mark.parametrize("deterministic", [False, True])
def test_an_evicted_adapter_leaves_nothing(
    loaded: LoadedBase, held: Held, deterministic: bool
) -> None:
    driver = Driver(loaded, deterministic=deterministic, num_adapter_slots=4)
    # Enough adapters that a step stacks them.
    leases = [HeldAdapter(str(i), replace(held["wide"].weights)) for i in range(4)]
    for lease in leases:
        driver.add(_PROMPT, lease, max_tokens=3)
    driver.run()
    placed = [weakref.ref(p) for p in driver.core._slots._placed.values()]
    assert len(placed) == 4
    for lease in leases:
        driver.core.evict(lease.name, lease.version)
    gc.collect()
    assert [ref() for ref in placed] == [None] * 4
    assert _bytes(driver) == 0
    assert driver.core.stats().num_cached_blocks == 0


@pytest.mark.parametrize("seed", range(8))
def test_random_workload_with_a_loader(seed: int, tiny: Tiny, loaded: LoadedBase) -> None:
    """Versions come and go, pins and cancels, while placings end at any time or fail."""
    generator = random.Random(seed)
    weights = {name: read_adapter(path, loaded.info) for name, path in tiny.adapters.items()}
    kinds = sorted(weights)
    solos = {kind: _solo(loaded, weights[kind]) for kind in kinds}
    later = Later()
    driver = Driver(
        loaded,
        loader=later,
        max_batch_size=generator.choice([2, 6]),
        block_size=4,
        num_blocks=generator.choice([20, 50]),
        num_adapter_slots=generator.choice([1, 3, 5]),
        adapter_slot_bytes=generator.choice([None, 120_000]),
        max_wait_s=generator.choice([0.0, 60.0]),
        deterministic=True,
    )
    # Each name's version says which weights it has; a lease count as the host tier has it.
    current = dict.fromkeys(("a", "b", "c"), 0)
    leases: dict[tuple[str, str], list[HeldAdapter]] = {}
    jobs: list[tuple[Inbox, str, HeldAdapter]] = []
    cancelled: set[int] = set()
    broken = 0
    for _ in range(120):
        if generator.random() < 0.5:
            name = generator.choice(sorted(current))
            version = current[name]
            kind = kinds[version % len(kinds)]
            lease = HeldAdapter(name, weights[kind], f"v{version}")
            leases.setdefault((name, lease.version), []).append(lease)
            request = driver.request(
                _PROMPT,
                lease,
                max_tokens=generator.choice([1, 5]),
                priority=generator.choice([0, 3]),
            )
            jobs.append((driver.submit(request), kind, lease))
            if generator.random() < 0.1:
                cancelled.add(len(jobs) - 1)
                driver.core.cancel(request.request_id)
        if generator.random() < 0.2:
            name = generator.choice(sorted(current))
            current[name] += 1
        if generator.random() < 0.1:
            name = generator.choice(sorted(current))
            driver.core.pin(name, f"v{current[name]}", generator.random() < 0.5)
        for _ in range(generator.choice([0, 0, 1, 3])):
            if later.jobs and generator.random() < 0.05:
                broken += 1
                later.jobs.popleft()[0].set_exception(MemoryError())
            elif later.jobs:
                later.finish()
        driver.step()
        _free(driver, leases, current)
    while driver.core.has_work:
        later.finish(len(later.jobs))
        driver.step()
    current = dict.fromkeys(current, -1)
    _free(driver, leases, current)
    later.finish(len(later.jobs))
    driver.step()
    num_broken = 0
    for index, (inbox, kind, lease) in enumerate(jobs):
        assert lease.num_released == 1
        if isinstance(inbox.terminal, Finished):
            tokens = inbox.finished.token_ids
            assert tokens == solos[kind][: len(tokens)]
        else:
            num_broken += isinstance(inbox.error, MemoryError)
            assert isinstance(inbox.error, MemoryError) or index in cancelled
    assert bool(num_broken) <= bool(broken)
    stats = driver.core.stats()
    assert stats.slots == ()
    assert (stats.num_used_blocks, stats.num_cached_blocks) == (0, 0)
    assert _bytes(driver) == 0


def _free(
    driver: Driver, leases: dict[tuple[str, str], list[HeldAdapter]], current: dict[str, int]
) -> None:
    """What the host tier does: a superseded version leaves with its last lease."""
    for key, given in list(leases.items()):
        name, version = key
        if version != f"v{current[name]}" and all(lease.num_released for lease in given):
            driver.core.evict(name, version)
            driver.core.check_integrity()
            del leases[key]


def _solo(loaded: LoadedBase, weights: Any) -> tuple[int, ...]:
    driver = Driver(loaded, deterministic=True)
    inbox = driver.add(_PROMPT, HeldAdapter("solo", weights), max_tokens=5)
    driver.run()
    return inbox.finished.token_ids
