"""Time between the tokens of a stream."""

import time

from server.metrics import Metrics


class TokenClock:
    """Reports the gaps between a stream's tokens; tokens that come together share theirs."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._last_s: float | None = None

    def tokens(self, count: int) -> None:
        """`count` tokens are handed to the connection now."""
        if not count:
            return
        now = time.monotonic()
        if self._last_s is not None:
            for _ in range(count):
                self._metrics.inter_token((now - self._last_s) / count)
        self._last_s = now
