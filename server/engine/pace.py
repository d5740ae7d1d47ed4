"""How fast requests end: what a full queue's retry delay is made of."""

from collections import deque

# Bounds of the delay in seconds: none at once, and none so long that a client waits for nothing.
_MIN_RETRY_S, _MAX_RETRY_S = 0.1, 30.0
# Ends that are looked back on: several batches, so that requests that end together count right.
_NUM_ENDS = 128


class Pace:
    """The rate of the last ends since the engine had nothing to do. Times are in seconds."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque([0.0], maxlen=_NUM_ENDS)

    def begin(self, now: float) -> None:
        """A request came while there was no other: idle time before it says nothing of the pace."""
        self._ends.clear()
        self._ends.append(now)

    def end(self, now: float) -> None:
        """A request ended, whatever its outcome: each makes room."""
        self._ends.append(now)

    def retry_delay_s(self, num_queued: int, now: float) -> float:
        """When those that are queued now will have left at this pace, within bounds."""
        request_s = (now - self._ends[0]) / max(1, len(self._ends) - 1)
        return min(max(num_queued * request_s, _MIN_RETRY_S), _MAX_RETRY_S)
