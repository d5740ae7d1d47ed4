"""Which adapters have series of their own: a bound on what thousands of names cost a scrape."""

import time
from collections import OrderedDict
from collections.abc import Callable

BASE = "base"
OTHER = "other"

# A use counts half as much after this time.
_HALF_LIFE_S = 300.0
# Names without series whose uses are counted, for each name that may have them.
_CANDIDATES_PER_LABEL = 16
# Uses are weighed by 2^halvings since the first; beyond this many, weights are scaled back.
_MAX_HALVINGS = 500.0


class AdapterLabels:
    """The names used most of late have a label, `max_names` at most; the others share `other`.

    A name gets a free label at its first use. When none is free, it takes that of the name used
    least once it leads by more than one use, so that names seen once displace nobody and two
    equals do not swap for ever. The bare base always has its label. Not thread-safe.
    """

    def __init__(self, max_names: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` counts seconds."""
        self._max_names = max_names
        self._clock = clock
        self._since_s = clock()
        self._scores: dict[str, float] = {}
        # Those without a label, the one used longest ago first.
        self._candidates: OrderedDict[str, float] = OrderedDict()

    def label(self, adapter: str) -> str:
        """The name itself, or `other`. The empty name, of calls about no adapter, is itself."""
        return adapter if not adapter or adapter == BASE or adapter in self._scores else OTHER

    def use(self, adapter: str) -> str | None:
        """Counts a use; returns the name that lost its label to it, if any."""
        if not adapter or adapter == BASE:
            return None
        weight = self._weight()
        if adapter in self._scores:
            self._scores[adapter] += weight
            return None
        score = self._candidates.pop(adapter, 0.0) + weight
        if len(self._scores) < self._max_names:
            self._scores[adapter] = score
            return None
        self._candidates[adapter] = score
        if len(self._candidates) > _CANDIDATES_PER_LABEL * self._max_names:
            self._candidates.popitem(last=False)
        if score <= weight:
            return None
        least = min(self._scores, key=self._scores.__getitem__)
        if score <= self._scores[least] + weight:
            return None
        self._candidates[least] = self._scores.pop(least)
        self._scores[adapter] = self._candidates.pop(adapter)
        return least

    def _weight(self) -> float:
        """What a use counts now. Old scores stay as they are: new uses count more."""
        halvings = (self._clock() - self._since_s) / _HALF_LIFE_S
        if halvings > _MAX_HALVINGS:
            scale = 2.0 ** -min(halvings, 1000.0)
            for scores in (self._scores, self._candidates):
                for name in scores:
                    scores[name] *= scale
            self._since_s += halvings * _HALF_LIFE_S
            halvings = 0.0
        return float(2.0**halvings)
