"""From the engine's thread to the event loop: one channel a request, one wake-up a step."""

import asyncio
import contextlib
from collections import deque

from server.types import Delta, Event


class EventChannel:
    """The events of one request, read by its coroutine."""

    def __init__(self) -> None:
        # By sample, the one that waits longest first.
        self._deltas: dict[int, list[Delta]] = {}
        self._terminal: Event | None = None
        self._arrived = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether the terminal event has arrived."""
        return self._terminal is not None

    def put(self, event: Event) -> None:
        """Takes an event, on the event loop."""
        if isinstance(event, Delta):
            self._deltas.setdefault(event.index, []).append(event)
        else:
            self._terminal = event
        self._arrived.set()

    async def next(self) -> Event:
        """The next event; a sample's deltas that piled up behind a slow reader come as one."""
        await self._arrived.wait()
        if not self._deltas:
            assert self._terminal is not None
            return self._terminal
        index = next(iter(self._deltas))
        deltas = self._deltas.pop(index)
        if not self._deltas and self._terminal is None:
            self._arrived.clear()
        if len(deltas) == 1:
            return deltas[0]
        return Delta(
            text="".join(delta.text for delta in deltas),
            token_ids=tuple(token for delta in deltas for token in delta.token_ids),
            logprobs=tuple(entry for delta in deltas for entry in delta.logprobs),
            index=index,
        )


class EventBridge:
    """Carries events of all requests over, with one wake-up for all that came meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pending: deque[tuple[EventChannel, Event]] = deque()
        self._scheduled = False

    def emit(self, channel: EventChannel, event: Event) -> None:
        """Hands an event over. From any thread; never blocks."""
        self._pending.append((channel, event))
        if not self._scheduled:
            self._scheduled = True
            # A closed loop has no readers left.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # Before emptying: what is appended from here on either is seen below or schedules anew.
        self._scheduled = False
        while self._pending:
            channel, event = self._pending.popleft()
            channel.put(event)
