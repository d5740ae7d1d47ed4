"""What names mean: the version that a bare name gives, what aliases were last seen to point to, and
what was taken out of service."""

import time

from server.adapters.store import Reference
from server.errors import AdapterNotFoundError
from understudy.store import LATEST

# How long an alias is taken from memory before the store is asked again, seconds: another process
# may move it.
ALIAS_FRESH_S = 1.0


class Names:
    """The names of one server's adapters. Not thread-safe; reads no disk. Times are `now()`."""

    def __init__(self) -> None:
        # What a bare name means; stays when the version is evicted, so that it comes back.
        self._current: dict[str, str] = {}
        # Names that mean what the store says, not what LoadAdapter read from elsewhere.
        self._following: set[str] = set()
        # (name, alias) -> what the store said it points to, and when.
        self._aliases: dict[tuple[str, str], tuple[str, float]] = {}
        # `name` and `name@version` that were unloaded: not served again until loaded by request.
        self._withdrawn: set[str] = set()

    @staticmethod
    def now() -> float:
        """The time, for what is looked up in the store."""
        return time.monotonic()

    def current(self, name: str) -> str | None:
        """The version that a bare name means, if requests have asked for it and it is served."""
        return self._current.get(name)

    def is_withdrawn(self, reference: Reference) -> bool:
        """Whether it was unloaded, under these very words."""
        return str(reference) in self._withdrawn

    def check(self, reference: Reference) -> None:
        """Raises AdapterNotFoundError if it was unloaded."""
        if self.is_withdrawn(reference):
            raise AdapterNotFoundError(str(reference), note="it was unloaded; load it to serve it")

    def pointed(self, name: str, alias: str) -> str | None:
        """What an alias points to, if that was looked up or set in the last ALIAS_FRESH_S."""
        version, at = self._aliases.get((name, alias), ("", 0.0))
        return version if version and self.now() - at < ALIAS_FRESH_S else None

    def looked_up(self, name: str, alias: str, version: str, at: float) -> str:
        """Notes that the store said at that time that an alias points to `version`; returns what it
        points to, which may have been set since."""
        known, known_at = self._aliases.get((name, alias), ("", 0.0))
        if known_at > at:
            return known
        self._aliases[name, alias] = (version, at)
        return version

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Notes that the store's alias points to `version` from now on; empty: it is no more."""
        self._aliases.pop((name, alias), None)
        if version:
            self._aliases[name, alias] = (version, self.now())

    def used(self, name: str, version: str, at: float) -> None:
        """Notes that a bare name means `version`, as the store said at that time: at its first use,
        or in the place of a version that is there no more."""
        known, known_at = self._aliases.get((name, LATEST), ("", 0.0))
        self._current[name] = known if known_at > at else version
        self._following.add(name)

    def move(self, name: str, version: str, *, follow: bool) -> bool:
        """Makes a bare name mean `version`, and both served; whether it meant another one.

        It then means what the store says, if it is to `follow`.
        """
        self._withdrawn -= {name, str(Reference(name, version))}
        (self._following.add if follow else self._following.discard)(name)
        old, self._current[name] = self._current.get(name), version
        return old != version

    def follow(self, name: str, version: str) -> None:
        """Lets a name that means `version` follow the store from now on."""
        if self._current.get(name) == version:
            self._following.add(name)

    def following(self) -> dict[str, str]:
        """Names that follow the store, and what they mean."""
        return {name: self._current[name] for name in self._following}

    def withdraw(self, reference: Reference, version: str) -> None:
        """Takes a version out of service, and with it the bare name if that means it or was
        named."""
        name = reference.name
        self._withdrawn.add(str(Reference(name, version)))
        if not reference.selector or self._current.get(name) == version:
            self._withdrawn.add(name)
            self._current.pop(name, None)
            self._following.discard(name)
