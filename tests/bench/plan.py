"""What is measured, and the files it needs."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.load import Load
from tests.bench.shape import (
    FULL,
    MANY_RANK,
    RANKS,
    SOFT_PROMPT,
    TINY,
    AdapterWriter,
    Shape,
    make_base,
)

NUM_LORA = 8
"""Adapters of `lora8`; each round takes them in turn."""
CACHE_BYTES = 1 << 28
"""Keys and values of each engine: ample for 16 requests, and several engines fit in memory."""
SWEEP = (0, 1, 2, 4, 8, 16)
"""Distinct adapters in a batch, for the plot."""


@dataclass(frozen=True)
class Plan:
    """What is run."""

    shape: Shape
    load: Load
    rounds: int
    sweep_rounds: int
    threads: int
    many: int
    """Adapters registered for `lora1000`."""
    many_requests: int
    """Requests of one of its rounds."""
    host_bytes: int
    """Its cap on host memory for adapters."""
    read_bytes: int
    """Memory that is read to measure the bandwidth."""
    min_peft_share: float
    """Of the tokens per second that plain products alone would allow: below it, the baseline is
    not at its best and comparing with it would be no fair play."""

    @property
    def seeds(self) -> list[str]:
        """One for each round."""
        return [str(number) for number in range(self.rounds)]


FULL_PLAN = Plan(
    shape=FULL,
    load=Load(),
    rounds=3,
    sweep_rounds=2,
    threads=os.cpu_count() or 1,
    many=1000,
    many_requests=32,
    host_bytes=2_000_000_000,
    read_bytes=3 << 29,
    min_peft_share=0.2,
)
QUICK_PLAN = Plan(
    shape=TINY,
    load=Load(prompt_tokens=16, output_tokens=8),
    rounds=1,
    sweep_rounds=1,
    threads=1,
    many=20,
    many_requests=24,
    host_bytes=8 * TINY.lora_bytes(8),
    read_bytes=1 << 26,
    min_peft_share=0.0,  # A tiny model's step is all overhead.
)


@dataclass
class Disk:
    """Base and adapters, on disk."""

    folder: Path
    plan: Plan
    lora: list[str] = field(default_factory=list)
    """Names of the adapters of ranks 8, 16, 32, 16, ..."""
    many: list[str] = field(default_factory=list)
    """Names of the adapters of `lora1000`."""
    directories: dict[str, Path] = field(default_factory=dict)
    """Each adapter's directory."""

    @property
    def base(self) -> Path:
        """The base's directory."""
        return self.folder / "base"

    @property
    def store(self) -> Path:
        """The adapter store."""
        return self.folder / "store"

    def write(self) -> None:
        """Write it all. Raises OSError where it does not fit."""
        needed = (self.plan.many + 2 * max(SWEEP)) * self.plan.shape.lora_bytes(MANY_RANK)
        needed += 4 * self.plan.shape.linear_bytes
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(
                f"{self.folder.parent}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed; "
                "set TMPDIR to a folder on a larger disk"
            )
        make_base(self.base, self.plan.shape)
        writer = AdapterWriter(self.base, self.store, self.plan.shape)
        for i in range(max(SWEEP)):
            self.lora.append(f"lora-{i:02}")
            self.directories[self.lora[i]] = writer.lora(self.lora[i], RANKS[i % len(RANKS)], i)
        self.directories[SOFT_PROMPT] = writer.soft_prompt(SOFT_PROMPT, seed=100)
        for i in range(self.plan.many):
            self.many.append(f"many-{i:04}")
            self.directories[self.many[i]] = writer.lora(self.many[i], MANY_RANK, seed=1000 + i)

    def lora_bytes(self, names: Sequence[str]) -> int:
        """Bytes of the tensors of these adapters, out of `lora`."""
        ranks = (RANKS[self.lora.index(name) % len(RANKS)] for name in names)
        return sum(self.plan.shape.lora_bytes(rank) for rank in ranks)

    def in_turn(self, num_adapters: int, count: int) -> list[str]:
        """Adapters of `count` requests: the first `num_adapters` in turn, the base if 0."""
        names = self.lora[:num_adapters] or [""]
        return [names[i % len(names)] for i in range(count)]
