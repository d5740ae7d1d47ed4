"""Time between the tokens of a stream."""

import time

from server.metrics import Metrics


class TokenClock:
    """Reports the gaps between the tokens of each sample of a stream; tokens that come together
    share theirs."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._last_s: dict[int, float] = {}

    def tokens(self, index: int, count: int) -> None:
        """`count` tokens of a sample are handed to the connection now."""
        if not count:
            return
        now = time.monotonic()
        last_s = self._last_s.get(index)
        if last_s is not None:
            for _ in range(count):
                self._metrics.inter_token((now - last_s) / count)
        self._last_s[index] = now
