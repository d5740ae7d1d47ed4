"""Who gets the next place: shares, priorities, claims, and the bound on waiting. Fake clock."""

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.answer import Progress
from server.engine.fairness import ShareTable
from server.engine.generation import Generation
from server.engine.sequence import Chunk, Sequence
from server.engine.waiting import WaitingQueue
from server.types import Request, SamplingParams, StoppingParams
from tests.server.engine.harness import HeldAdapter, Inbox

_MAX_WAIT_S = 60.0


@dataclass
class Line:
    """A queue with a clock. Sequences are known by what the test calls them."""

    queue: WaitingQueue = field(default_factory=lambda: WaitingQueue(_MAX_WAIT_S, 2000))
    now: float = 0.0
    numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    names: dict[Sequence, str] = field(default_factory=dict)

    def add(
        self,
        name: str,
        tenant: str = "",
        adapter: str | None = None,
        *,
        num_tokens: int = 10,
        priority: int = 0,
    ) -> Sequence:
        request = Request(
            request_id=name,
            prompt_token_ids=(1,) * num_tokens,
            lease=HeldAdapter(adapter, None) if adapter else None,
            sampling=SamplingParams(),
            stopping=StoppingParams(max_tokens=10),
            emit=Inbox(),
            arrival_s=self.now,
            priority=priority,
            tenant=tenant,
        )
        answer = Generation(
            request,
            Progress(next(self.numbers)),
            max_context=100,
            eos_token_ids=frozenset(),
            decode=lambda _: "",
        )
        (sequence,) = answer.sequences
        self.names[sequence] = name
        self.queue.add(sequence, self.now)
        return sequence

    def admit(self, can_run: Callable[[Sequence], bool] = lambda _: True) -> Sequence | None:
        """The next place's, if anybody can have it."""
        sequence = self.queue.next(self.now, can_run)
        if sequence is None or not can_run(sequence):
            return None
        self.queue.admit(sequence, self.now)
        return sequence

    def order(self, num_places: int) -> list[str]:
        """Who gets the next places; they generate nothing."""
        found = [self.admit() for _ in range(num_places)]
        self.queue.check_integrity()
        return [self.names[sequence] for sequence in found if sequence]

    def generate(self, sequence: Sequence, num_tokens: int) -> None:
        for _ in range(num_tokens):
            sequence.num_computed = sequence.num_positions
            sequence.token_ids.append(1)
            self.queue.charge([Chunk(sequence, sequence.num_computed, 1)])


def test_newcomer_is_next_after_a_thousand_of_a_busy_adapter() -> None:
    line = Line()
    for i in range(1000):
        line.add(f"busy{i}", adapter="busy")
    assert line.order(3) == ["busy0", "busy1", "busy2"]
    line.add("new", adapter="other")
    line.add("base")
    assert line.order(3) == ["new", "base", "busy3"]


def test_tenants_share_alike_whatever_adapters_they_name() -> None:
    line = Line()
    for i in range(100):
        line.add("many", "many", f"adapter{i % 50}")
        line.add("one", "one", "adapter0")
    found = Counter(line.order(100))
    assert found == {"many": 50, "one": 50}


def test_adapters_of_a_tenant_share_its_places() -> None:
    line = Line()
    for i in range(60):
        line.add("a", "x", "a")
        if i < 20:
            line.add("b", "x", "b")
            line.add("other", "y", "a")
    found = Counter(line.order(40))
    assert found == {"a": 10, "b": 10, "other": 20}


def test_shares_are_of_weighted_tokens() -> None:
    line = Line()
    for _ in range(100):
        line.add("long", "long", num_tokens=30)
        line.add("short", "short", num_tokens=10)
        line.add("talker", "talker", num_tokens=10)
    served: Counter[str] = Counter()
    for _ in range(100):
        sequence = line.admit()
        assert sequence is not None
        name = line.names[sequence]
        # A generated token counts two: as much as the longer prompt.
        line.generate(sequence, 10 if name == "talker" else 0)
        served[name] += 1
    assert served == {"short": 60, "long": 20, "talker": 20}


def test_cached_and_recomputed_rows_are_not_counted() -> None:
    line = Line()
    cached, other = line.add("a", "a", num_tokens=50), line.add("b", "b", num_tokens=20)
    assert cached.share is not None
    assert other.share is not None
    cached.num_computed = 40
    assert line.order(2) == ["a", "b"]
    assert (cached.share.served, other.share.served) == (10, 20)
    line.generate(cached, 3)
    assert cached.share.served == 16
    cached.num_computed = 0
    line.queue.add(cached, line.now)
    assert line.order(1) == ["a"]
    assert not Chunk(cached, 52, 1).is_decode
    assert Chunk(cached, 53, 1).is_decode
    assert cached.share.served == 16


def test_nobody_saves_up_while_idle() -> None:
    line = Line()
    line.add("first", "idle")
    line.order(1)
    for _ in range(500):
        line.add("busy", "busy", num_tokens=50)
    line.order(400)
    for _ in range(50):
        line.add("back", "idle", num_tokens=50)
    assert Counter(line.order(40)) == {"back": 20, "busy": 20}
    # The same where nobody was waiting meanwhile.
    line.order(200)
    assert not len(line.queue)
    for _ in range(40):
        line.add("new", "new", num_tokens=50)
        line.add("busy", "busy", num_tokens=50)
    assert Counter(line.order(40)) == {"new": 20, "busy": 20}


def test_priorities_go_first_and_shares_hold_within_one() -> None:
    line = Line()
    for name, tenant, priority in [
        ("low", "x", -1),
        ("a1", "x", 0),
        ("a2", "x", 0),
        ("b1", "y", 0),
        ("high1", "x", 7),
        ("high2", "x", 7),
    ]:
        line.add(name, tenant, priority=priority)
    assert line.order(10) == ["high1", "high2", "b1", "a1", "a2", "low"]


def test_a_low_priority_waits_no_longer_than_the_bound() -> None:
    line = Line()
    for i in range(3):
        line.add(f"low{i}", priority=-5)
    waited: dict[str, float] = {}
    while len(waited) < 3:
        line.add("high", priority=5)
        line.add("high", priority=5)
        (name,) = line.order(1)
        if name != "high":
            waited[name] = line.now
        line.now += 1.0
    assert waited == {"low0": 60.0, "low1": 62.0, "low2": 64.0}


def test_an_overdue_backlog_leaves_every_second_place() -> None:
    line = Line()
    for i in range(1000):
        line.add(f"old{i}", "x")
    line.now = _MAX_WAIT_S + 1
    line.add("new", "y")
    assert line.order(2) == ["old0", "new"]
    line.add("urgent", "z", priority=3)
    assert line.order(3) == ["old1", "urgent", "old2"]


def test_who_cannot_have_a_slot_is_passed_over_until_overdue() -> None:
    line = Line()
    line.add("blocked1", "x", "blocked")
    line.add("base", "x")
    line.add("blocked2", "y", "blocked")
    line.add("placed", "y", "placed")

    def can_run(sequence: Sequence) -> bool:
        lease = sequence.answer.request.lease
        return lease is None or lease.name == "placed"

    found = [line.admit(can_run) for _ in range(3)]
    assert [line.names[s] for s in found if s] == ["base", "placed"]
    line.now = _MAX_WAIT_S
    line.add("late", "z")
    # It is the overdue one's turn, and it cannot run: nobody may take what it waits for.
    assert line.admit(can_run) is None
    assert line.order(3) == ["blocked1", "late", "blocked2"]


def test_claims_outlive_a_preemption() -> None:
    line = Line()
    first, second = line.add("first", "x"), line.add("second", "x")
    assert line.order(2) == ["first", "second"]
    line.generate(first, 50)
    line.add("fresh", "y")
    line.add("high", "y", priority=1)
    # The last one admitted is the first to lose its blocks.
    assert line.queue.rank(first, line.now) < line.queue.rank(second, line.now)
    for sequence in (second, first):
        sequence.num_computed = 0
        line.queue.add(sequence, line.now)
    assert line.order(4) == ["high", "first", "second", "fresh"]


def test_overdue_ones_keep_their_blocks_longest() -> None:
    line = Line()
    low = line.add("low", priority=-1)
    line.now = _MAX_WAIT_S
    high = line.add("high", priority=1)
    assert line.order(2) == ["low", "high"]
    assert line.queue.rank(low, line.now) < line.queue.rank(high, line.now)


def test_tenants_are_forgotten_but_not_while_they_wait() -> None:
    table = ShareTable(max_shares=10)
    waiting = table.of("patient", "base")
    waiting.count_waiting(1)
    for i in range(100):
        table.of(f"tenant{i}", "base").charge(5)
        assert len(table) <= 10
    assert table.of("patient", "base") is waiting
    assert table.of("tenant99", "base").served == 5
    assert table.of("tenant0", "base").served == 0


@settings(deadline=None, max_examples=60)
@given(st.randoms(use_true_random=False))
def test_any_workload_keeps_the_bound(generator: random.Random) -> None:
    """Random arrivals, places, preemptions and cancellations: the queue agrees with itself, and
    whoever is overdue with n older ones before it is admitted within 2 n + 2 places."""
    line = Line()
    running: list[Sequence] = []
    limits: dict[Sequence, int] = {}
    num_places = 0
    for _ in range(150):
        line.now += generator.choice([0.0, 1.0, 20.0])
        action = generator.random()
        if action < 0.5:
            line.add(
                "any",
                generator.choice("xyz"),
                generator.choice([None, "a", "b"]),
                num_tokens=generator.randrange(1, 40),
                priority=generator.choice([-1, 0, 0, 4]),
            )
        elif action < 0.6 and running:
            sequence = running.pop(generator.randrange(len(running)))
            line.queue.add(sequence, line.now)
            # It may be older than some that wait, and go before them.
            for younger in limits:
                limits[younger] += 2 * (sequence.order[1:] < younger.order[1:])
        elif action < 0.65 and len(line.queue):
            sequence = generator.choice(list(line.queue))
            line.queue.remove(sequence)
            limits.pop(sequence, None)
        else:
            waiting = sorted(line.queue, key=lambda s: s.order[1:])
            for older, sequence in enumerate(waiting):
                if line.now - sequence.queued_s >= _MAX_WAIT_S:
                    limits.setdefault(sequence, num_places + 2 * older + 2)
            admitted = line.admit()
            assert (admitted is None) == (not waiting)
            if admitted is not None:
                num_places += 1
                assert num_places <= limits.pop(admitted, num_places)
                line.generate(admitted, generator.randrange(5))
                running.append(admitted)
        line.queue.check_integrity()


@pytest.mark.parametrize("num_shares", [1, 1000])
def test_finding_the_next_does_not_sort_the_queue(num_shares: int) -> None:
    """A thousand waiting: well under what the shortest step takes."""
    line = Line()
    for i in range(1000):
        line.add("any", f"tenant{i % num_shares}")
    started = time.perf_counter()
    assert len(line.order(100)) == 100
    assert (time.perf_counter() - started) / 100 < 0.01
