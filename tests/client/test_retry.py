"""The retry policy on a clock of its own."""

import pytest

from understudy._retry import Attempts, RetryPolicy
from understudy.errors import (
    DeadlineExceededError,
    ErrorDetails,
    InternalError,
    ResourceExhaustedError,
    UnavailableError,
    UnderstudyError,
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def attempts(
    policy: RetryPolicy, timeout_s: float | None, clock: Clock, jitter: float = 1.0
) -> Attempts:
    """Attempts whose jitter is a fixed share of the bound."""
    return Attempts(policy, timeout_s, clock, lambda low, high: low + jitter * (high - low))


def test_delays_double_up_to_their_bound() -> None:
    policy = RetryPolicy(max_attempts=7, initial_backoff_s=0.5, max_backoff_s=3.0)
    tries = attempts(policy, None, Clock())
    delays = [tries.delay_after(UnavailableError("x")) for _ in range(6)]
    assert delays == [0.5, 1.0, 2.0, 3.0, 3.0, 3.0]
    with pytest.raises(UnavailableError):
        tries.delay_after(UnavailableError("x"))


def test_retrying_without_end_keeps_the_longest_delay() -> None:
    policy = RetryPolicy(max_attempts=10**6, initial_backoff_s=0.5, max_backoff_s=3.0)
    tries = attempts(policy, None, Clock())
    delays = [tries.delay_after(UnavailableError("x")) for _ in range(1100)]
    assert delays[-1] == 3.0


def test_jitter_is_full() -> None:
    tries = attempts(RetryPolicy(initial_backoff_s=1.0), None, Clock(), jitter=0.0)
    assert tries.delay_after(UnavailableError("x")) == 0.0


def test_server_delay_is_a_lower_bound() -> None:
    full = ResourceExhaustedError("full", ErrorDetails(retry_delay_s=2.0))
    assert attempts(RetryPolicy(initial_backoff_s=1.0), None, Clock(), 0.0).delay_after(full) == 2.0
    assert attempts(RetryPolicy(initial_backoff_s=1.0), None, Clock(), 0.5).delay_after(full) == 2.5


@pytest.mark.parametrize("error", [ResourceExhaustedError("message too large"), InternalError("x")])
def test_final_errors(error: UnderstudyError) -> None:
    with pytest.raises(UnderstudyError) as caught:
        attempts(RetryPolicy(), None, Clock()).delay_after(error)
    assert caught.value is error


def test_one_deadline_for_all_attempts() -> None:
    clock = Clock()
    tries = attempts(RetryPolicy(initial_backoff_s=1.0), 10.0, clock)
    assert tries.remaining_s() == 10.0
    clock.now_s += 8.5
    assert tries.remaining_s() == pytest.approx(1.5)
    assert tries.delay_after(UnavailableError("x")) == 1.0
    with pytest.raises(UnavailableError):
        tries.delay_after(UnavailableError("the next delay of 2 s passes the deadline"))
    clock.now_s += 1.5
    with pytest.raises(DeadlineExceededError, match="within 10 s"):
        tries.remaining_s()
