"""Subsets of a task's samples: by size, in the data's order, drawn by a seed or stratified."""

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evalsuite.errors import InputError
from evalsuite.types import Sample

Draw = Literal["first", "random", "stratified"]
_MARK = re.compile(r"@(first|random|stratified):(\d*)(?::(\d+))?$")


@dataclass(frozen=True)
class Subset:
    """At most `size` samples, in the data's order."""

    size: int
    draw: Draw = "first"
    seed: int = 0

    def __str__(self) -> str:
        """As it stands in signatures."""
        seed = "" if self.draw == "first" else f":seed{self.seed}"
        return f"{self.draw}:{self.size}{seed}"

    def of(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """The subset; all samples if there are no more than `size`."""
        if len(samples) <= self.size:
            return samples
        if self.draw == "first":
            return tuple(samples[: self.size])
        rng = random.Random(f"{self.seed}:subset")
        if self.draw == "random":
            chosen = set(rng.sample(range(len(samples)), self.size))
        else:
            chosen = self._stratified(samples, rng)
        return tuple(sample for row, sample in enumerate(samples) if row in chosen)

    def _stratified(self, samples: Sequence[Sample], rng: random.Random) -> set[int]:
        """Rows from every stratum in proportion to its size, by largest remainders."""
        strata: dict[str, list[int]] = defaultdict(list)
        for row, sample in enumerate(samples):
            strata[_stratum(sample)].append(row)
        shares = {name: self.size * len(rows) / len(samples) for name, rows in strata.items()}
        counts = {name: int(share) for name, share in shares.items()}
        # The names break ties, so that the order of the data does not matter.
        by_remainder = sorted(shares, key=lambda name: (counts[name] - shares[name], name))
        for name in by_remainder[: self.size - sum(counts.values())]:
            counts[name] += 1
        return {row for name in sorted(strata) for row in rng.sample(strata[name], counts[name])}


def split_subset(name: str) -> tuple[str, Subset | None]:
    """A task's name without its `@DRAW:SIZE[:SEED]`, and the subset. Raises InputError."""
    found = _MARK.search(name)
    if found is None:
        if re.search(r"@[a-z]+:\d", name):
            raise InputError(
                f"--tasks: '{name}': a subset is @first:SIZE, @random:SIZE or @stratified:SIZE, "
                "with :SEED behind if you like"
            )
        return name, None
    size = int(found[2] or 0)
    if not size:
        raise InputError(f"--tasks: '{name}': a subset needs a size of at least 1")
    draw: Draw = found[1]  # type: ignore[assignment]
    return name[: found.start()], Subset(size, draw, int(found[3] or 0))


def _stratum(sample: Sample) -> str:
    """A sample's category; without one, its right answer where that is a choice."""
    return sample.category or ("" if sample.target is None else str(sample.target))
