"""Deadlines: passed ones never start, hopeless ones are shed, all others have their chance."""

import pytest

from server.errors import DeadlineError, RequestCancelledError
from server.models.loader import LoadedBase
from tests.server.engine.harness import Driver, Inbox

_PROMPT, _OTHER = [tuple((i * k) % 311 + 1 for i in range(1600)) for k in (7, 11)]


class Clocked:
    """A driver whose clock stands still. Of `_PROMPT` it ran a hundred steps, all of them full."""

    def __init__(self, loaded: LoadedBase) -> None:
        self.now = 1000.0
        self.driver = Driver(loaded, clock=lambda: self.now, max_step_tokens=16, max_batch_size=1)
        self.driver.add(_PROMPT, max_tokens=1)
        self.driver.run()
        steps = self.driver.metrics.steps
        assert [step.num_prefill_tokens for step in steps] == [16] * 100
        self.fastest_s = min(step.duration_s for step in steps)
        steps.clear()
        self.driver.metrics.left_queue.clear()

    def add(self, prompt: tuple[int, ...], num_steps_left: float) -> Inbox:
        """A request whose deadline is so many of the fastest steps away."""
        deadline_s = self.now + num_steps_left * self.fastest_s
        return self.driver.add(prompt, max_tokens=1, deadline_s=deadline_s)


@pytest.fixture
def clocked(loaded: LoadedBase) -> Clocked:
    return Clocked(loaded)


def test_hopeless_deadlines_are_shed_before_work_is_wasted(clocked: Clocked) -> None:
    driver = clocked.driver
    # Half of the hundred, less one for the block that may be found in part.
    shed = clocked.add(_OTHER, 49.4)
    assert isinstance(shed.error, DeadlineError)
    assert "the first token takes at least" in str(shed.error)
    # Cached, short, or with a chance: these are left to the clock.
    chances = [clocked.add(_PROMPT, 1), clocked.add(_OTHER[:15], 0.01), clocked.add(_OTHER, 49.6)]
    assert all(inbox.terminal is None for inbox in chances)
    assert not driver.metrics.steps
    assert driver.metrics.left_queue == ["deadline"]
    driver.run()
    assert all(inbox.finished for inbox in chances)


def test_a_deadline_that_became_hopeless_is_shed_at_its_turn(clocked: Clocked) -> None:
    driver = clocked.driver
    running = driver.add((1, 2), max_tokens=10)
    driver.step()
    queued = clocked.add(_OTHER, 70)
    clocked.now += 30 * clocked.fastest_s
    while running.terminal is None:
        assert queued.terminal is None
        driver.step()
    num_steps = len(driver.metrics.steps)
    driver.step()
    assert isinstance(queued.error, DeadlineError)
    assert "the first token takes at least" in str(queued.error)
    assert len(driver.metrics.steps) == num_steps
    driver.core.check_integrity()


def test_a_cancel_after_the_deadline_tells_of_the_deadline(loaded: LoadedBase) -> None:
    now = 1.0
    driver = Driver(loaded, clock=lambda: now)
    early, late = (driver.request((1, 2), deadline_s=5.0) for _ in range(2))
    inboxes = [driver.submit(request) for request in (early, late)]
    driver.core.cancel(early.request_id)
    now = 5.0
    driver.core.cancel(late.request_id)
    assert isinstance(inboxes[0].error, RequestCancelledError)
    assert isinstance(inboxes[1].error, DeadlineError)


@pytest.mark.parametrize("late_s", [0.0, 1.0])
def test_passed_deadlines_never_start(loaded: LoadedBase, late_s: float) -> None:
    driver = Driver(loaded, clock=lambda: 5.0)
    inbox = driver.add((1, 2), deadline_s=5.0 - late_s)
    driver.step()
    assert isinstance(inbox.error, DeadlineError)
    assert driver.metrics.left_queue == ["deadline"]
    assert not driver.metrics.steps


def test_who_runs_in_time_is_not_judged_again(clocked: Clocked) -> None:
    """A sequence that was admitted goes on until its deadline has passed."""
    admitted = clocked.add(_OTHER, 60)
    clocked.driver.step()
    clocked.now += 30 * clocked.fastest_s
    clocked.driver.step()
    assert admitted.terminal is None
    clocked.now += 30 * clocked.fastest_s
    clocked.driver.step()
    assert "the deadline passed after" in str(admitted.error)
