"""A store of very many adapters, on disk in seconds: most are links to a few."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.shape import MANY_RANK, AdapterWriter, Shape, drop_page_cache, make_base

_RESIDENT = 4


@dataclass
class Registry:
    """Base and store. Every adapter is a directory of its own; linked ones share their files with
    one that is `loaded`, which changes nothing for a server that never reads them."""

    folder: Path
    shape: Shape
    num_registered: int
    num_loaded: int
    resident: list[str] = field(default_factory=list)
    """Adapters of the requests that run."""
    loaded: list[str] = field(default_factory=list)
    """Adapters that are loaded meanwhile, or cold, each with values of its own."""
    directories: dict[str, Path] = field(default_factory=dict)
    """Those of `resident` and `loaded`."""

    @property
    def base(self) -> Path:
        """The base's directory."""
        return self.folder / "base"

    @property
    def store(self) -> Path:
        """The store with all of them."""
        return self.folder / "store"

    def write(self) -> None:
        """Write the base, and the adapters that are read."""
        make_base(self.base, self.shape)
        writer = AdapterWriter(self.base, self.store, self.shape)
        self.resident = [f"resident-{i}" for i in range(_RESIDENT)]
        self.loaded = [f"loaded-{i:04}" for i in range(self.num_loaded)]
        for seed, name in enumerate([*self.resident, *self.loaded]):
            self.directories[name] = writer.lora(name, MANY_RANK, seed)

    def write_linked(self) -> int:
        """Add the others; returns how many."""
        patterns = [self.directories[name] for name in self.loaded]
        count = self.num_registered - len(self.directories)
        for i in range(count):
            link(patterns[i % len(patterns)], self.store, f"linked-{i:05}")
        return count

    def drop_page_cache(self, names: Sequence[str]) -> None:
        """Make the next read of these adapters come from the disk."""
        drop_page_cache(path for name in names for path in self.directories[name].iterdir())


def link(source: Path, store: Path, name: str) -> None:
    """Register a published adapter once more under `name`, with the same files."""
    directory = store / name / source.name
    directory.mkdir(parents=True)
    for path in source.iterdir():
        os.link(path, directory / path.name)
    # As publishing leaves it.
    (store / name / "latest").write_text(source.name + "\n", encoding="ascii")
