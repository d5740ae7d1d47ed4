"""Which versions are in host memory, and what is told of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from server.adapters.artifact import ArtifactLimits
from server.adapters.store import AdapterStore, Reference
from server.adapters.tiers import AdapterTiers, TierLimits
from server.errors import AdapterMemoryError
from server.metrics import Metrics
from server.models.loader import load_base
from server.types import AdapterChange, AdapterEvent, BaseInfo, Tier
from tests.tiny import lora_config, make_adapter, make_base
from understudy.store import publish

Make = Callable[..., AdapterTiers]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BaseInfo]:
    directory = make_base(tmp_path_factory.mktemp("tiers") / "base")
    return directory, load_base(directory, quantization="none").info


@pytest.fixture(scope="module")
def artifacts(base: tuple[Path, BaseInfo], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two versions of `task` and one of `other`."""
    root = tmp_path_factory.mktemp("artifacts")
    return [
        make_adapter(base[0], root / str(seed), lora_config(), name=name, seed=seed)
        for seed, name in enumerate(("task", "task", "other"))
    ]


@pytest.fixture
def store(artifacts: list[Path], tmp_path: Path) -> tuple[Path, list[str]]:
    """A store, and the versions in it: two of `task`, one of `other`."""
    names = ("task", "task", "other")
    return tmp_path, [publish(a, tmp_path, n) for a, n in zip(artifacts, names, strict=True)]


@pytest.fixture
def told() -> list[AdapterEvent]:
    return []


@pytest.fixture
def make(
    base: tuple[Path, BaseInfo], store: tuple[Path, list[str]], told: list[AdapterEvent]
) -> Make:
    def tiers(max_host_bytes: int = 1 << 20) -> AdapterTiers:
        limits = TierLimits(ArtifactLimits(1 << 20, 64, max_host_bytes), ())
        root = AdapterStore(store[0])
        return AdapterTiers(base[1], root, limits, Metrics(), lambda *_: None, told.append)

    return tiers


def _told(events: list[AdapterEvent]) -> list[tuple[AdapterChange, str, Tier]]:
    found = [(event.kind, event.version, event.tier) for event in events]
    events.clear()
    return found


def test_changes_are_told_in_order(
    make: Make, store: tuple[Path, list[str]], told: list[AdapterEvent]
) -> None:
    tiers, (old, new, _) = make(), store[1]
    lease = tiers.try_acquire(tiers.prepare(Reference("task", old)))
    assert lease is not None
    assert _told(told) == [(AdapterChange.LOADED, old, Tier.HOST)]
    tiers.load("task", "", pin=True)
    assert _told(told) == [
        (AdapterChange.LOADED, new, Tier.HOST),
        (AdapterChange.PINNED, new, Tier.HOST),
        (AdapterChange.ALIAS, new, Tier.HOST),
    ]
    assert tiers.unload(Reference("task", old)) == 1
    assert _told(told) == [(AdapterChange.UNLOADED, old, Tier.HOST)]
    lease.release()
    assert _told(told) == [(AdapterChange.TIER, old, Tier.DISK)]
    tiers.pin(Reference("task"), False)
    tiers.pin(Reference("task"), False)
    tiers.set_alias("task", "stable", old)
    pinned, alias = told
    assert (pinned.kind, pinned.pinned) == (AdapterChange.PINNED, False)
    assert (alias.alias, alias.version, alias.tier) == ("stable", old, Tier.DISK)
    assert alias.at >= pinned.at > 0


def test_letting_go_of_a_version_on_disk_loads_nothing(
    make: Make, store: tuple[Path, list[str]], told: list[AdapterEvent]
) -> None:
    tiers, old = make(), store[1][0]
    assert tiers.pin(Reference("task", old), False) == Reference("task", old)
    assert tiers.pin(Reference("task"), False) in (Reference("task", v) for v in store[1])
    assert not tiers.residents()
    assert not told


def test_an_evicted_version_is_told_to_be_on_disk(
    make: Make, store: tuple[Path, list[str]], told: list[AdapterEvent]
) -> None:
    size = _size(make)
    tiers, versions = make(max_host_bytes=2 * size), store[1]
    for version in versions[:2]:
        tiers.prepare(Reference("task", version))
    told.clear()
    tiers.prepare(Reference("other"))
    assert _told(told) == [
        (AdapterChange.TIER, versions[0], Tier.DISK),
        (AdapterChange.LOADED, versions[2], Tier.HOST),
    ]
    assert tiers.stats().host_bytes == 2 * size


def _size(make: Make) -> int:
    tiers = make()
    tiers.prepare(Reference("other"))
    return tiers.stats().host_bytes


def test_what_is_published_later_makes_room(
    base: tuple[Path, BaseInfo], artifacts: list[Path], tmp_path: Path
) -> None:
    """A version read from elsewhere stays until it is unloaded; one that the store has can go."""
    root = tmp_path / "store"
    size = (artifacts[0] / "adapter_model.safetensors").stat().st_size
    limits = TierLimits(ArtifactLimits(1 << 20, 64, size * 3 // 2), (artifacts[0].parent,))
    root.mkdir()
    publish(artifacts[2], root, "other")
    tiers = AdapterTiers(base[1], AdapterStore(root), limits, Metrics(), lambda *_: None)
    exact = tiers.load("task", str(artifacts[0]), pin=False)
    with pytest.raises(AdapterMemoryError):
        tiers.prepare(Reference("other"))
    publish(artifacts[0], root, "task")
    assert tiers.load("task", "", pin=False) == exact
    tiers.prepare(Reference("other"))
    assert [name for name, _ in tiers.residents()] == ["other"]


def test_what_cannot_be_published_is_served_all_the_same(
    base: tuple[Path, BaseInfo], artifacts: list[Path], tmp_path: Path
) -> None:
    """The name has moved by then: an error would say that it has not."""
    (tmp_path / ".locks").symlink_to("/nowhere")
    limits = TierLimits(ArtifactLimits(1 << 20, 64, 1 << 20), ())
    tiers = AdapterTiers(base[1], AdapterStore(tmp_path), limits, Metrics(), lambda *_: None)
    exact = tiers.load_fetched("task", artifacts[0], "https://host/task", pin=False)
    tiers.keep_fetched(exact, artifacts[0])
    assert tiers.current("task") == exact.selector
    resident = tiers.resident("task", exact.selector)
    assert resident is not None
    assert not resident.stored
