"""The view of all versions, while others change the store."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from server.adapters.artifact import ArtifactLimits
from server.adapters.catalog import AdapterStatus, Catalog, Wanted
from server.adapters.store import AdapterStore, Reference
from server.adapters.tiers import AdapterTiers, TierLimits
from server.metrics import Metrics
from server.types import BaseInfo, Tier
from understudy import store as layout

_VERSIONS = ("0" * 16, "1" * 16, "2" * 16)
_ALL = Wanted()
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


def _names(statuses: list[AdapterStatus]) -> list[tuple[str, str]]:
    return [(status.name, status.version) for status in statuses]


def listed(catalog: Catalog, wanted: Wanted = _ALL, size: int = 100) -> list[tuple[str, str]]:
    """Every version, page by page."""
    found: list[tuple[str, str]] = []
    after = None
    while True:
        statuses, after = catalog.page(wanted, after, size)
        found += _names(statuses)
        if after is None:
            return found


def test_what_vanishes_while_it_is_listed_is_left_out(root: Path, catalog: Catalog) -> None:
    (first,), after = catalog.page(_ALL, None, 1)
    assert first.name == "first"
    gone = next(version for version in _VERSIONS if version != first.version)
    shutil.rmtree(root / "first" / gone)
    shutil.rmtree(root / "second")
    rest, after = catalog.page(_ALL, after, 100)
    assert after is None
    assert len(rest) == 1
    assert rest[0].name == "first"
    assert rest[0].version not in (first.version, gone)


def test_pages_go_on_where_the_last_one_ended(root: Path, catalog: Catalog) -> None:
    everything = listed(catalog)
    assert len(everything) == 6
    for size in (1, 2, 4, 6):
        assert listed(catalog, size=size) == everything
    _, after = catalog.page(_ALL, None, 2)
    assert after == everything[1]
    # The version is gone: nothing is left out, its name begins anew.
    shutil.rmtree(root / "first" / after[1])
    assert _names(catalog.page(_ALL, after, 100)[0]) == [everything[0], *everything[2:]]
    # So is the name.
    shutil.rmtree(root / "first")
    assert _names(catalog.page(_ALL, after, 100)[0]) == everything[3:]
    assert listed(catalog, Wanted(name_prefix="sec")) == everything[3:]
    assert listed(catalog, Wanted(name_prefix="z")) == []


def test_a_page_looks_at_so_many_versions(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where filters leave nothing, pages are short, and the next one goes on."""
    monkeypatch.setattr("server.adapters.catalog.MAX_LOOKS", 4)
    everything = listed(catalog)
    assert len(everything) == 6
    statuses, after = catalog.page(Wanted(method="lora"), None, 100)
    assert (statuses, after) == ([], everything[3])
    assert catalog.page(Wanted(method="lora"), after, 100) == ([], None)
    assert catalog.page(Wanted(tier=Tier.DEVICE), None, 100) == ([], None)


def test_ten_thousand_adapters(tmp_path: Path) -> None:
    """A page costs a small part of what reading all of them does, wherever it is."""
    for number in range(10_000):
        (tmp_path / f"name-{number:05}" / _VERSIONS[0]).mkdir(parents=True)
    limits = TierLimits(ArtifactLimits(1, 1, 1), ())
    tiers = AdapterTiers(_BASE, AdapterStore(tmp_path), limits, Metrics(), lambda *_: None)
    catalog = Catalog(tiers, lambda: (), 1)
    started = time.perf_counter()
    assert len(listed(catalog, size=1000)) == 10_000
    all_s = time.perf_counter() - started
    times = []
    for number in (0, 5_000, 9_900):
        after = (f"name-{number:05}", _VERSIONS[0])
        started = time.perf_counter()
        statuses, _ = catalog.page(_ALL, after, 50)
        times.append(time.perf_counter() - started)
        assert statuses[0].name == f"name-{number + 1:05}"
    print(f"all {all_s:.3f} s; pages", *(f"{seconds * 1e3:.1f} ms" for seconds in times))
    assert max(times) < all_s / 5


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
    found = [name for name in listed(catalog) if name[0] == "first"]
    assert sorted(found) == [("first", _VERSIONS[0]), ("first", _VERSIONS[2])]
    assert catalog.status(Reference("first", _VERSIONS[2])).aliases == ()
    shutil.rmtree(root)
    assert listed(catalog) == []
