"""Deadlines and retries of one call: the policy that both clients share.

A call is tried again only on UNAVAILABLE, and on RESOURCE_EXHAUSTED where the server says when
(without RetryInfo it means a message over the size limit, which would fail again). A stream is
tried again only before its first token: whoever reads it must never see a token twice.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from understudy.errors import (
    DeadlineExceededError,
    ResourceExhaustedError,
    UnavailableError,
    UnderstudyError,
)


class _UseClientDefault(Enum):
    TOKEN = "use the client's default"


USE_CLIENT_DEFAULT: Final = _UseClientDefault.TOKEN
Timeout = float | None | _UseClientDefault
"""Seconds a call may take, retries included. None: no deadline."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a call is tried again. Delays double, with full jitter, between the two bounds."""

    max_attempts: int = 5
    """Attempts in all. 1: never retry."""
    initial_backoff_s: float = 0.2
    max_backoff_s: float = 5.0


@dataclass
class Attempts:
    """The attempts of one call, within one deadline."""

    policy: RetryPolicy
    timeout_s: float | None
    clock: Callable[[], float] = time.monotonic
    uniform: Callable[[float, float], float] = random.uniform
    _num_failed: int = field(default=0, init=False)
    _deadline: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.timeout_s is not None:
            self._deadline = self.clock() + self.timeout_s

    def remaining_s(self) -> float | None:
        """Seconds left for the next attempt, None without a deadline.

        Raises DeadlineExceededError when none are left.
        """
        if self._deadline is None:
            return None
        remaining = self._deadline - self.clock()
        if remaining <= 0:
            raise DeadlineExceededError(f"no answer within {self.timeout_s:g} s")
        return remaining

    def delay_after(self, error: UnderstudyError) -> float:
        """Seconds to wait before the next attempt. Raises `error` if there is to be none."""
        self._num_failed += 1
        retryable = isinstance(error, UnavailableError) or (
            isinstance(error, ResourceExhaustedError) and error.retry_delay_s is not None
        )
        if not retryable or self._num_failed >= self.policy.max_attempts:
            raise error
        # Bounded: whoever retries without end would come to numbers that no float holds.
        exponential = self.policy.initial_backoff_s * 2.0 ** min(self._num_failed - 1, 64)
        backoff = self.uniform(0.0, min(exponential, self.policy.max_backoff_s))
        # The server's delay is a lower bound; the jitter on top keeps clients from coming at once.
        delay = (error.retry_delay_s or 0.0) + backoff
        if self._deadline is not None and self.clock() + delay >= self._deadline:
            raise error
        return delay
