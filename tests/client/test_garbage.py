"""Garbage collection and the locks beneath it, with other processes."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.client.test_store_crash import make_artifact
from understudy import locks as locks_module
from understudy import store
from understudy.artifact import ArtifactError
from understudy.garbage import Policy, collect
from understudy.locks import LOCKS_FILE, LocksUnsupportedError, StoreLocks

DAY_S = 24 * 3600


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with four versions of `demo`, published 1 to 4 days ago; the newest is `latest`."""
    for number in range(4):
        version = store.publish(
            make_artifact(tmp_path / f"artifact{number}", number), tmp_path / "store", "demo"
        )
        at = time.time() - (4 - number) * DAY_S
        os.utime(tmp_path / "store" / "demo" / version, (at, at))
    return tmp_path / "store"


HOLDER = """
import sys
from pathlib import Path
from understudy.locks import StoreLocks

locks = StoreLocks(Path(sys.argv[1]), read_only=True)
assert locks.take(sys.argv[2], shared=True)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hold(root: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts another process that holds a shared lock until it is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(key: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, root, key],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def removed(root: Path, **policy: float) -> list[str]:
    verdicts = collect(root, Policy(**{"keep": 0, "min_age_s": 0.0, **policy}))  # type: ignore[arg-type]
    return [verdict.version for verdict in verdicts if verdict.removed]


def test_newest_young_and_aliased_versions_stay(root: Path) -> None:
    newest = store.versions(root, "demo")
    store.set_alias(root, "demo", "stable", newest[3])
    verdicts = collect(root, Policy(keep=0, min_age_s=2.5 * DAY_S), dry_run=True)
    assert [(v.version, v.removed) for v in verdicts] == [
        (newest[0], False), (newest[1], False), (newest[2], True), (newest[3], False),
    ]  # fmt: skip
    assert [v.reason for v in verdicts] == [
        "alias latest", "younger than 216000 s", "not needed", "alias stable",
    ]  # fmt: skip
    assert all(v.size_bytes > 300 for v in verdicts)
    assert store.versions(root, "demo") == newest
    assert removed(root, min_age_s=2.5 * DAY_S) == [newest[2]]
    assert removed(root, keep=2) == []
    assert removed(root) == [newest[1]]
    assert store.versions(root, "demo") == [newest[0], newest[3]]
    assert sorted(path.name for path in (root / "demo").iterdir()) == sorted(
        ["latest", "stable", newest[0], newest[3]]
    )


def test_what_another_process_serves_stays_until_it_ends(
    root: Path, hold: Callable[..., subprocess.Popen[str]]
) -> None:
    newest = store.versions(root, "demo")
    process = hold(f"demo/{newest[2]}")
    verdicts = {v.version: v for v in collect(root, Policy(keep=1, min_age_s=0), dry_run=True)}
    assert verdicts[newest[2]].reason == "in a server's memory"
    assert removed(root) == [newest[1], newest[3]]
    process.kill()
    process.communicate()
    assert removed(root) == [newest[2]]


def test_shared_locks_are_shared_and_need_no_right_to_write(root: Path) -> None:
    with (
        StoreLocks(root, read_only=True) as first,
        StoreLocks(root, read_only=True) as second,
        StoreLocks(root) as third,
    ):
        assert first.take("a/1", shared=True)
        assert second.take("a/1", shared=True)
        assert not third.take("a/1")
        first.release("a/1")
        assert not third.take("a/1", timeout_s=0.02)
        second.release("a/1")
        assert third.take("a/1")
        assert third.take("a/2")
        assert not first.take("a/1", shared=True)
        with pytest.raises(ArtifactError, match="cannot be locked"):
            first.take("a/3")
    assert (root / LOCKS_FILE).stat().st_size == 0


def test_what_a_live_publisher_writes_stays(
    root: Path, hold: Callable[..., subprocess.Popen[str]]
) -> None:
    live, dead = root / "demo" / ".publish-1", root / "demo" / ".publish-2"
    live.mkdir()
    dead.mkdir()
    (dead / "half").write_bytes(b"123")
    (root / "demo" / ".alias-1").write_text("0")
    (root / "demo" / ".remove-1").mkdir()
    (root / "demo" / ".notes").write_text("not ours")
    hold("demo/.publish-1")
    left = [v for v in collect(root, Policy(keep=9)) if v.removed]
    assert [(v.version, v.size_bytes) for v in left] == [
        (".alias-1", 1), (".publish-2", 3), (".remove-1", 0),
    ]  # fmt: skip
    names = sorted(path.name for path in (root / "demo").glob(".*"))
    assert names == [".notes", ".publish-1"]


def test_publishers_and_collectors_at_once(tmp_path: Path) -> None:
    """Everybody works on the same two versions: what a publish returned is there and `latest`."""
    sources = [make_artifact(tmp_path / f"artifact{n}", n) for n in range(2)]
    root = tmp_path / "store"
    store.publish(sources[0], root, "demo")
    ends = time.monotonic() + 2.0

    def publish(number: int) -> int:
        count = 0
        while time.monotonic() < ends:
            version = store.publish(sources[number], root, "demo")
            entry = store.read_entry(root, "demo")
            # The other publisher may have moved the alias, and then this one is garbage.
            assert entry.resolve() in entry.versions
            assert version in entry.versions or entry.resolve() != version
            count += 1
        return count

    def tidy() -> int:
        count = 0
        while time.monotonic() < ends:
            count += len([v for v in collect(root, Policy(0, 0)) if v.removed])
        return count

    with ThreadPoolExecutor(5) as pool:
        publishing = [pool.submit(publish, number) for number in (0, 0, 1)]
        tidying = [pool.submit(tidy) for _ in range(2)]
        published = sum(future.result() for future in publishing)
        collected = sum(future.result() for future in tidying)
    assert published > 10
    assert collected > 0
    entry = store.read_entry(root, "demo")
    for version in entry.versions:
        store.verify_version(root, "demo", version)
    collect(root, Policy(0, 0))
    assert list((root / "demo").glob(".*")) == []


def test_nothing_is_collected_where_there_are_no_locks(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "fcntl", refuse)
        with pytest.raises(LocksUnsupportedError, match="Operation not supported"):
            collect(root)
        store.publish(make_artifact(tmp_path / "more", 9), root, "demo")
        patch.setattr(sys, "platform", "darwin")
        with pytest.raises(LocksUnsupportedError, match="darwin"):
            collect(root)
    assert len(store.versions(root, "demo")) == 5


def test_a_lock_that_is_kept_is_an_error(
    root: Path, hold: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks_module, "TIMEOUT_S", 0.05)
    hold("demo")
    newest = store.versions(root, "demo")
    with pytest.raises(ArtifactError, match="'demo' locked"):
        store.set_alias(root, "demo", "stable", newest[1])
    with pytest.raises(ArtifactError, match="'demo' locked"):
        collect(root)
    assert store.aliases(root, "demo") == {"latest": newest[0]}
