"""What names mean, whoever moves them and whenever."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.adapters import names as names_module
from server.adapters.names import Names
from server.adapters.store import AdapterStore, Reference
from server.adapters.tiers import AdapterTiers
from server.errors import AdapterNotFoundError
from tests.server.adapters.test_tiers import Make, artifacts, base, make, store, told
from understudy import store as layout

__all__ = ["artifacts", "base", "make", "store", "told"]

OLD, NEW = "0" * 16, "1" * 16


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time, which the test sets."""
    seconds = [100.0]
    monkeypatch.setattr(names_module.Names, "now", staticmethod(lambda: seconds[0]))
    return seconds


def test_an_alias_is_fresh_for_a_second(now: list[float]) -> None:
    names = Names()
    assert names.pointed("a", "stable") is None
    assert names.looked_up("a", "stable", OLD, 99.5) == OLD
    assert names.pointed("a", "stable") == OLD
    now[0] = 100.6
    assert names.pointed("a", "stable") is None


def test_what_was_set_is_newer_than_what_was_looked_up_before(now: list[float]) -> None:
    names = Names()
    names.set_alias("a", "latest", NEW)
    assert names.looked_up("a", "latest", OLD, at=99.0) == NEW
    assert names.pointed("a", "latest") == NEW
    names.used("a", OLD, at=99.0)
    assert names.current("a") == NEW
    names.set_alias("a", "latest", "")
    assert names.pointed("a", "latest") is None
    names.used("b", OLD, at=99.0)
    assert names.current("b") == OLD


def test_out_of_service_until_moved() -> None:
    names = Names()
    names.move("a", OLD, follow=True)
    assert names.following() == {"a": OLD}
    names.withdraw(Reference("a"), OLD)
    for reference in (Reference("a"), Reference("a", OLD)):
        with pytest.raises(AdapterNotFoundError, match="was unloaded"):
            names.check(reference)
    assert names.following() == {}
    assert names.move("a", NEW, follow=False)
    names.check(Reference("a"))
    assert names.is_withdrawn(Reference("a", OLD))
    # Another version of it leaves the name alone.
    names.withdraw(Reference("a", OLD), OLD)
    assert names.current("a") == NEW
    assert not names.move("a", NEW, follow=True)


def version_of(tiers: AdapterTiers, reference: Reference) -> str | None:
    """What a request that names `reference` runs on, if that is in memory."""
    lease = tiers.try_acquire(reference)
    if lease is None:
        return None
    lease.release()
    return lease.version


def test_aliases_are_served_from_memory(
    make: Make,
    store: tuple[Path, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    now: list[float],
) -> None:
    tiers, (old, new, _) = make(), store[1]
    layout.set_alias(store[0], "task", "stable", old)
    stable = Reference("task", "stable")
    tiers.prepare(Reference("task", new))
    assert version_of(tiers, stable) is None
    assert tiers.prepare(stable) == Reference("task", old)
    with monkeypatch.context() as patch:
        # Nobody asks the disk.
        for method in ("resolve", "versions", "aliases", "names", "directory"):
            patch.delattr(AdapterStore, method)
        for _ in range(100):
            assert version_of(tiers, stable) == old
    # Another process moves it: that counts within a second.
    layout.set_alias(store[0], "task", "stable", new)
    assert version_of(tiers, stable) == old
    now[0] += names_module.ALIAS_FRESH_S
    assert version_of(tiers, stable) is None
    assert tiers.resolve(stable) == new
    assert version_of(tiers, stable) == new
    # Through the server it counts at once, and needs no load afterwards.
    tiers.load("task", "", pin=False)
    tiers.set_alias("task", "stable", old)
    assert version_of(tiers, stable) == old
    tiers.set_alias("task", "stable", "")
    assert version_of(tiers, stable) is None
    with pytest.raises(AdapterNotFoundError):
        tiers.resolve(stable)


def test_latest_moves_the_name_to_what_is_in_memory(
    make: Make, store: tuple[Path, list[str]]
) -> None:
    tiers, (old, new, _) = make(), store[1]
    name = Reference("task")
    assert tiers.prepare(name).selector == new
    for version in (old, new, old):
        tiers.set_alias("task", "latest", version)
        assert version_of(tiers, name) == version
        assert list(tiers.residents()) == [("task", version)]
        assert tiers.current("task") == version


@pytest.mark.parametrize("in_use", [False, True])
def test_a_first_use_during_a_move(
    make: Make, store: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch, in_use: bool
) -> None:
    """A request that looked `latest` up just before it moved does not move it back."""
    tiers, (old, new, _) = make(), store[1]
    if in_use:
        tiers.prepare(Reference("task", old))
    looked_up, may_go_on = threading.Event(), threading.Event()
    resolve = AdapterStore.resolve

    def slow(self: AdapterStore, reference: Reference) -> str | None:
        found = resolve(self, reference)
        if reference == Reference("task") and not looked_up.is_set():
            looked_up.set()
            assert may_go_on.wait(30)
        return found

    monkeypatch.setattr(AdapterStore, "resolve", slow)
    asking = threading.Thread(target=tiers.prepare, args=(Reference("task"),))
    asking.start()
    assert looked_up.wait(30)
    tiers.set_alias("task", "latest", old)
    may_go_on.set()
    asking.join()
    assert tiers.current("task") == old
    assert tiers.prepare(Reference("task")) == Reference("task", old)
    assert new != old
