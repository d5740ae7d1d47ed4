"""Interleaved rounds: every variant in turn, again and again, one at a time."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from tests.bench.load import Load, Round
from tests.bench.machine import busy_s, used_s

WARM = "warm"
"""The seed of rounds that are not counted."""
_WARM_TOKENS = 8


@dataclass(frozen=True)
class Variant:
    """Something to measure: `play(seed, load)` runs one round of it in process `pid`."""

    name: str
    pid: int
    play: Callable[[str, Load], Round]


@dataclass
class Results:
    """Rounds by variant, and how quiet the machine was."""

    rounds: dict[str, list[Round]] = field(default_factory=dict)
    foreign_cores: list[float] = field(default_factory=list)
    """Processors that were busy with anything else, by round."""
    idle_cores: list[float] = field(default_factory=list)
    """Processors that our processes used that were not in turn, by round."""

    def speeds(self, name: str) -> list[float]:
        """Tokens per second, by round."""
        return [done.tokens_per_s for done in self.rounds[name]]

    def speed(self, name: str) -> float:
        """The median of `speeds`."""
        return median(self.speeds(name))


class Clock:
    """Progress on standard error, with the time since the start."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def say(self, text: str) -> None:
        """Print one line."""
        print(f"[{time.monotonic() - self._begin:6.1f} s] {text}", file=sys.stderr, flush=True)


def run(
    variants: Sequence[Variant],
    load: Load,
    seeds: Sequence[str],
    clock: Clock,
    after_round: Callable[[Results], None] = lambda _: None,
) -> Results:
    """Warm each variant up, then play all of them for each seed. `after_round` may raise."""
    results = Results({variant.name: [] for variant in variants})
    for variant in variants:
        variant.play(WARM, replace(load, output_tokens=min(_WARM_TOKENS, load.output_tokens)))
    clock.say(f"warmed up {', '.join(results.rounds)}")
    pids = {variant.pid for variant in variants}
    for number, seed in enumerate(seeds, start=1):
        for variant in variants:
            with _Watch(variant.pid, pids - {variant.pid}, results):
                done = variant.play(seed, load)
            results.rounds[variant.name].append(done)
            clock.say(
                f"round {number}/{len(seeds)}  {variant.name:24} {done.tokens_per_s:7.1f} tokens/s"
            )
        after_round(results)
    return results


class _Watch:
    """Measures who used the processors meanwhile."""

    def __init__(self, active: int, idle: Iterable[int], results: Results) -> None:
        self._active, self._idle, self._results = active, tuple(idle), results

    def __enter__(self) -> None:
        self._before = self._read()

    def __exit__(self, *_: object) -> None:
        wall, busy, active, idle, own = (
            now - then for now, then in zip(self._read(), self._before, strict=True)
        )
        self._results.idle_cores.append(idle / wall)
        self._results.foreign_cores.append(max(0.0, busy - active - idle - own) / wall)

    def _read(self) -> tuple[float, float, float, float, float]:
        active, idle = used_s(self._active), sum(map(used_s, self._idle))
        return time.perf_counter(), busy_s(), active, idle, time.process_time()
