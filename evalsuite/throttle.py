"""How many requests may be in flight at one server: as many as it takes without queueing long."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Throttle:
    """A bound that follows the server: up by one a round, down by a tenth at most once a round.

    Additive increase, multiplicative decrease (Chiu and Jain 1989), steered by the share of its
    time that an answered request spent waiting in the server's queue. A round is as many answers
    as may be in flight.
    """

    # A request that waits longer than it runs could as well have been sent later.
    _WAITING_SHARE = 0.5

    def __init__(self, start: int, most: int) -> None:
        self.limit = float(min(start, most))
        self._most = most
        self._in_flight = 0
        self._since_decrease = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def resize(self, start: int, most: int) -> None:
        """Starts over with another bound."""
        self.limit, self._most = float(min(start, most)), most

    @property
    def most(self) -> int:
        """The bound's own bound."""
        return self._most

    @property
    def load(self) -> float:
        """Requests in flight or waiting, as a share of the bound."""
        return (self._in_flight + len(self._waiting)) / self.limit

    @asynccontextmanager
    async def room(self) -> AsyncIterator[None]:
        """Waits until one more request may be sent, first come first served; holds its place."""
        if self._in_flight >= int(self.limit):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except BaseException:
                if turn.done() and not turn.cancelled():
                    self._release()
                raise
        else:
            self._in_flight += 1
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        self._in_flight -= 1
        while self._waiting and self._in_flight < int(self.limit):
            turn = self._waiting.popleft()
            if not turn.done():
                self._in_flight += 1
                turn.set_result(None)

    def answered(self, queue_s: float, total_s: float) -> None:
        """An answer came that had waited `queue_s` of its `total_s` in the queue."""
        self._since_decrease += 1
        if queue_s > self._WAITING_SHARE * total_s:
            self.slow_down(0.9)
        else:
            self.limit = min(float(self._most), self.limit + 1 / self.limit)

    def slow_down(self, factor: float = 0.5) -> None:
        """The server has too much to do."""
        if self._since_decrease >= int(self.limit):
            self.limit = max(1.0, self.limit * factor)
            self._since_decrease = 0
