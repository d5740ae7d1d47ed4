"""WatchAdapters: changes from whichever thread makes them to every stream that watches."""

import asyncio
import contextlib
import logging
from collections import deque
from dataclasses import dataclass, replace

from server.errors import DrainingError, SlowWatcherError
from server.types import AdapterChange, AdapterEvent, Tier

_LOG = logging.getLogger(__name__)

Key = tuple[str, str]

_DRAINING = "the server is shutting down"


@dataclass(frozen=True, slots=True)
class InMemory:
    """Where a version in memory is, as far as its events have told."""

    tier: Tier
    pinned: bool


class Watch:
    """The changes that one watcher has not taken yet. Used on the event loop."""

    def __init__(self, name_prefix: str, max_events: int) -> None:
        self._name_prefix = name_prefix
        self._max_events = max_events
        self._events: deque[AdapterEvent] = deque()
        self._error: Exception | None = None
        self._arrived = asyncio.Event()

    def put(self, event: AdapterEvent) -> None:
        """Keeps a change; one too many ends the watch and frees what was kept."""
        if self.ended or not event.name.startswith(self._name_prefix):
            return
        if len(self._events) == self._max_events:
            self._events.clear()
            self._error = SlowWatcherError(self._max_events)
        else:
            self._events.append(event)
        self._arrived.set()

    def end(self, error: Exception) -> None:
        """Ends the watch once what was kept is taken."""
        self._error = self._error or error
        self._arrived.set()

    @property
    def ended(self) -> bool:
        """Whether no more changes are kept."""
        return self._error is not None

    async def next(self) -> list[AdapterEvent]:
        """The changes since the last call, at least one.

        Raises SlowWatcherError, DrainingError.
        """
        await self._arrived.wait()
        if not self._events:
            assert self._error is not None
            raise self._error
        events = list(self._events)
        self._events.clear()
        if self._error is None:
            self._arrived.clear()
        return events


class AdapterFeed:
    """Hands changes to all watchers, and knows from them what is in memory.

    `observe` is a `server.types.AdapterObserver`; what is told to it before the first watcher comes
    counts, too. The rest is for the event loop. A watcher sees what was in memory at one point
    between two events, and every event after it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, max_events: int) -> None:
        """At most `max_events` are kept for a watcher that does not take them."""
        self._loop = loop
        self._max_events = max_events
        self._pending: deque[AdapterEvent] = deque()
        self._scheduled = False
        self._in_memory: dict[Key, InMemory] = {}
        self._watches: set[Watch] = set()
        self._closed = False

    def observe(self, event: AdapterEvent) -> None:
        """Takes a change. From any thread; never blocks."""
        self._pending.append(event)
        if not self._scheduled:
            self._scheduled = True
            # A closed loop has no watchers left.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._deliver)

    def start(self, name_prefix: str) -> tuple[dict[Key, InMemory], Watch]:
        """What is in memory now, and the watch for what comes. `stop` it. Raises DrainingError."""
        if self._closed:
            raise DrainingError(_DRAINING)
        watch = Watch(name_prefix, self._max_events)
        self._watches.add(watch)
        found = {k: where for k, where in self._in_memory.items() if k[0].startswith(name_prefix)}
        return found, watch

    def stop(self, watch: Watch) -> None:
        """Forgets a watch."""
        self._watches.discard(watch)

    def close(self) -> None:
        """Ends every watch, present and future, with DrainingError."""
        self._closed = True
        for watch in self._watches:
            watch.end(DrainingError(_DRAINING))

    def _deliver(self) -> None:
        # Before emptying: what is appended from here on either is seen below or schedules anew.
        self._scheduled = False
        while self._pending:
            event = self._pending.popleft()
            told = self._apply(event)
            if told is not None:
                _log(told)
                for watch in self._watches:
                    watch.put(told)

    def _apply(self, event: AdapterEvent) -> AdapterEvent | None:
        """Notes what a change means for memory; the change with what is known of its version, None
        if there is nothing to tell.

        A slot may fill or empty when its version has just left host memory, and with it memory as
        a whole: that is over already. What changes in host memory does not know of the slots.
        """
        key = event.name, event.version
        known = self._in_memory.get(key)
        if event.kind is AdapterChange.LOADED:
            # Back in service before it left memory, it may still have its slot.
            known = known or InMemory(event.tier, pinned=False)
        elif event.kind is AdapterChange.TIER and event.tier is Tier.DISK:
            self._in_memory.pop(key, None)
            return event
        elif known is None:
            return None if event.kind is AdapterChange.TIER else event
        elif event.kind is AdapterChange.TIER:
            known = InMemory(event.tier, known.pinned)
        elif event.kind is AdapterChange.PINNED:
            known = InMemory(known.tier, event.pinned)
        self._in_memory[key] = known
        return replace(event, tier=known.tier, pinned=known.pinned)


def _log(event: AdapterEvent) -> None:
    if event.kind is AdapterChange.ALIAS:
        name = f"{event.name}@{event.alias}" if event.alias else event.name
        _LOG.info("adapter %s: now %s", name, event.version or "nothing")
        return
    # Slots change hands all the time; what is in service does not.
    level = logging.DEBUG if event.kind is AdapterChange.TIER else logging.INFO
    what = event.tier.value if event.kind is AdapterChange.TIER else event.kind.value
    if event.kind is AdapterChange.PINNED and not event.pinned:
        what = "no longer pinned"
    _LOG.log(level, "adapter %s@%s: %s", event.name, event.version, what)
