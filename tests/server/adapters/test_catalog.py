"""The view of all versions, while others change the store."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.adapters.artifact import ArtifactLimits
from server.adapters.catalog import AdapterStatus, Catalog
from server.adapters.store import AdapterStore, Reference
from server.adapters.tiers import AdapterTiers, TierLimits
from server.metrics import Metrics
from server.types import BaseInfo
from understudy import store as layout

_VERSIONS = ("0" * 16, "1" * 16, "2" * 16)
_BASE = BaseInfo(
    name="tiny", fingerprint="0", architecture="none", quantization="none", weight_form="dense",
    dtype="float32", device="cpu", max_context_tokens=1, vocab_size=1, hidden_size=1,
    num_parameters=0, resident_bytes=0, int8_threshold=0.0, deterministic=False, linear_shapes={},
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store of two adapters with three versions each, none of them readable."""
    for name in ("first", "second"):
        for version in _VERSIONS:
            (tmp_path / name / version).mkdir(parents=True)
            layout.set_alias(tmp_path, name, f"alias{version[0]}", version)
    return tmp_path


@pytest.fixture
def catalog(root: Path) -> Catalog:
    limits = TierLimits(ArtifactLimits(1, 1, 1), ())
    tiers = AdapterTiers(_BASE, AdapterStore(root), limits, Metrics(), lambda *_: None)
    return Catalog(tiers, lambda: (), 1)


def _names(statuses: Iterator[AdapterStatus]) -> list[tuple[str, str]]:
    return [(status.name, status.version) for status in statuses]


def test_what_vanishes_while_it_is_listed_is_left_out(root: Path, catalog: Catalog) -> None:
    statuses = catalog.list()
    first = next(statuses)
    assert first.name == "first"
    gone = next(version for version in _VERSIONS if version != first.version)
    shutil.rmtree(root / "first" / gone)
    shutil.rmtree(root / "second")
    rest = _names(statuses)
    assert len(rest) == 1
    assert rest[0][0] == "first"
    assert rest[0][1] not in (first.version, gone)


def test_what_vanishes_between_two_looks_at_the_store(
    root: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder and an alias that are there when the store is listed, and then are not."""
    read_entry, open_ = layout.read_entry, Path.open

    def read_then_remove(store: Path, name: str) -> layout.Entry:
        found = read_entry(store, name)
        shutil.rmtree(root / "first" / _VERSIONS[1], ignore_errors=True)
        return found

    def remove_then_open(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == "alias2":
            path.unlink(missing_ok=True)
        return open_(path, *args, **kwargs)

    monkeypatch.setattr(layout, "read_entry", read_then_remove)
    monkeypatch.setattr(Path, "open", remove_then_open)
    assert _VERSIONS[1] in AdapterStore(root).versions("first")
    found = [name for name in _names(catalog.list()) if name[0] == "first"]
    assert sorted(found) == [("first", _VERSIONS[0]), ("first", _VERSIONS[2])]
    assert catalog.status(Reference("first", _VERSIONS[2])).aliases == ()
    shutil.rmtree(root)
    assert _names(catalog.list()) == []
