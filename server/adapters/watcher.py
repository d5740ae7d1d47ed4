"""Takes over what is published: names in service follow the store."""

import logging

from server.adapters.tiers import AdapterTiers, Loader
from server.errors import AdapterRefusedError, ServerError

_LOG = logging.getLogger(__name__)


class StoreWatcher:
    """Finds and loads new versions of the names in service. Use from one thread at a time.

    Names that nobody has asked for cost nothing: they are looked up when somebody does.
    """

    def __init__(self, tiers: AdapterTiers, loader: Loader = None) -> None:
        """What is new is read on `loader`."""
        self._tiers = tiers
        self._loader = loader
        self._failed: dict[str, str] = {}
        self._wanted: dict[str, str] = {}

    def look(self) -> list[str]:
        """Names that are to `follow` the store, without versions that were refused. *Blocking.*"""
        self._wanted = self._tiers.behind()
        self._failed = {n: v for n, v in self._failed.items() if self._wanted.get(n) == v}
        return [name for name in self._wanted if name not in self._failed]

    def follow(self, name: str) -> None:
        """Loads the store's version and serves it to new requests. *Blocking.*

        What fails is logged, and the name stays what it was: until the next look, or if the
        version was refused, until there is another.
        """
        try:
            exact = self._tiers.follow(name, self._loader)
        except ServerError as error:
            _LOG.warning("%s stays at its version: %s", name, error)
            if isinstance(error, AdapterRefusedError):
                self._failed[name] = self._wanted[name]
            return
        if exact is not None:
            _LOG.info("%s is now %s", name, exact)
