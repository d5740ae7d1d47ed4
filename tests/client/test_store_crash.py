"""The store after a crash: at every point of every change, with what was not synced lost."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.client.crash_model import (
    Call,
    Tree,
    crashes,
    read_tree,
    record,
    replay,
    volatile,
    write_tree,
)
from tests.client.test_artifact import MANIFEST, write_safetensors
from understudy import artifact, store
from understudy.garbage import Policy, collect


def make_artifact(folder: Path, value: int) -> Path:
    folder.mkdir()
    (folder / artifact.CONFIG_FILE).write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    write_safetensors(folder / artifact.TENSORS_FILE, {"a": ([2, 2], value.to_bytes(2) * 8)})
    artifact.seal(folder, MANIFEST)
    (folder / "evals").mkdir()
    (folder / "evals" / "notes.json").write_text(f'{{"rougeL": {value}}}')
    return folder


class Case:
    """A folder with a store and two artifacts, and one change to the store."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = folder / "root"
        self.root.mkdir()
        self.store = self.root / "store"
        self.sources = [make_artifact(folder / f"artifact{n}", n + 1) for n in range(2)]
        self.trees = {
            store.version_of(artifact.verify(source).content_hash): read_tree(source)
            for source in self.sources
        }
        self.versions = list(self.trees)
        self.known: dict[str, Any] = {}
        self._patch = patch

    def record(self, work: Callable[[], Any]) -> tuple[Tree, list[Call]]:
        before = read_tree(self.root)
        calls = record(self.root, work, self._patch)
        assert volatile(replay(before, calls)) == read_tree(self.root), "a call was not recorded"
        return before, calls


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(tmp_path, monkeypatch)


def states(case: Case, before: Tree, calls: list[Call], folder: Path) -> list[set[Any]]:
    """For each prefix of `calls`, what readers may find after a crash there.

    A state is (what each alias means, versions), each version whole; None: something is broken.
    """

    def state_of(tree: Tree) -> Any:
        key = repr(sorted_tree(tree))
        if key not in case.known:
            case.known[key] = read(case, tree, folder / str(len(case.known)))
        return case.known[key]

    return [
        {state_of(tree) for tree in crashes(replay(before, calls[:count]))}
        for count in range(len(calls) + 1)
    ]


def sorted_tree(tree: Tree) -> list[Any]:
    return sorted(
        (name, node if isinstance(node, bytes) else sorted_tree(node))
        for name, node in tree.items()
    )


def read(case: Case, tree: Tree, folder: Path) -> Any:
    """What a reader of the store sees, or None if it is not sound."""
    write_tree(folder, tree)
    where = folder / "store"
    if store.names(where) not in ([], ["demo"]):
        return None
    entry = store.read_entry(where, "demo")
    for version in entry.versions:
        if read_tree(where / "demo" / version) != case.trees[version]:
            return None
        store.verify_version(where, "demo", version)
    # An alias that leads nowhere is not shown by the store; here it is a fault.
    names = [path for path in where.glob("demo/*") if path.is_file() and path.name[0] != "."]
    if {path.name for path in names} != {alias for alias, _ in entry.aliases}:
        return None
    if where.exists():
        # What was left behind can be removed, and nothing else goes with it.
        collect(where, Policy(keep=100))
        left = [path.name for path in where.glob("demo/.*")]
        if left or store.read_entry(where, "demo") != entry:
            return None
    return entry.aliases, frozenset(entry.versions)


def latest(*versions: str) -> tuple[Any, frozenset[str]]:
    """The state in which `latest` is the last of `versions`."""
    return (("latest", versions[-1]),), frozenset(versions)


NOTHING = ((), frozenset[str]())


def test_first_publish(case: Case, tmp_path: Path) -> None:
    first = case.versions[0]
    before, calls = case.record(lambda: store.publish(case.sources[0], case.store, "demo"))
    found = states(case, before, calls, tmp_path)
    # The version is there, whole, a moment before the alias.
    assert set.union(*found) == {NOTHING, ((), frozenset({first})), latest(first)}
    assert found[0] == {NOTHING}
    assert found[-1] == {latest(first)}


def test_each_sync_is_needed(case: Case, tmp_path: Path) -> None:
    """And the model finds it missing."""
    first = case.versions[0]
    before, calls = case.record(lambda: store.publish(case.sources[0], case.store, "demo"))
    allowed = {NOTHING, ((), frozenset({first})), latest(first)}
    syncs = [index for index, call in enumerate(calls) if call.kind == "fsync"]
    assert len(syncs) >= 9
    for index in syncs:
        found = states(case, before, calls[:index] + calls[index + 1 :], tmp_path)
        assert not set.union(*found) <= allowed or found[-1] != {latest(first)}, calls[index]


def test_second_publish(case: Case, tmp_path: Path) -> None:
    first, second = case.versions
    store.publish(case.sources[0], case.store, "demo")
    before, calls = case.record(lambda: store.publish(case.sources[1], case.store, "demo"))
    found = states(case, before, calls, tmp_path)
    old, new = latest(first), latest(first, second)
    assert set.union(*found) == {old, (old[0], new[1]), new}
    assert found[0] == {old}
    assert found[-1] == {new}


def test_publish_of_what_is_there(case: Case, tmp_path: Path) -> None:
    first, second = case.versions
    for source in case.sources:
        store.publish(source, case.store, "demo")
    before, calls = case.record(lambda: store.publish(case.sources[0], case.store, "demo"))
    found = states(case, before, calls, tmp_path)
    old, new = latest(first, second), latest(second, first)
    assert set.union(*found) == {old, new}
    assert found[-1] == {new}


def test_publish_repairs_a_damaged_version(case: Case, tmp_path: Path) -> None:
    first = store.publish(case.sources[0], case.store, "demo")
    tensors = case.store / "demo" / first / artifact.TENSORS_FILE
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"!")
    before, calls = case.record(lambda: store.publish(case.sources[0], case.store, "demo"))
    found = states(case, before, calls, tmp_path)
    # Damaged, gone for a moment, whole; never both.
    assert found[-1] == {latest(first)}
    renamed = [index for index, call in enumerate(calls) if call.kind == "rename"]
    assert None not in found[renamed[1] + 2]


def test_alias_moves(case: Case, tmp_path: Path) -> None:
    first, second = case.versions
    for source in case.sources:
        store.publish(source, case.store, "demo")
    before, calls = case.record(lambda: store.set_alias(case.store, "demo", "latest", first))
    found = states(case, before, calls, tmp_path)
    old, new = latest(first, second), latest(second, first)
    assert set.union(*found) == {old, new}
    assert found[-1] == {new}


def test_alias_goes(case: Case, tmp_path: Path) -> None:
    first = store.publish(case.sources[0], case.store, "demo")
    before, calls = case.record(lambda: store.remove_alias(case.store, "demo", "latest"))
    found = states(case, before, calls, tmp_path)
    assert set.union(*found) == {latest(first), ((), frozenset({first}))}
    assert found[-1] == {((), frozenset({first}))}


def test_collection(case: Case, tmp_path: Path) -> None:
    first, second = case.versions
    for source in case.sources:
        store.publish(source, case.store, "demo")
    before, calls = case.record(lambda: collect(case.store, Policy(keep=1, min_age_s=0)))
    found = states(case, before, calls, tmp_path)
    assert set.union(*found) == {latest(first, second), latest(second)}
    assert found[-1] == {latest(second)}


KILLER = """
import json, os, random, signal, statistics, sys, time
from pathlib import Path
from tests.client.test_store_crash import make_artifact
from understudy import store
from understudy.garbage import Policy, collect

root, count = Path(sys.argv[1]), int(sys.argv[2])
where, generator = root / "store", random.Random(0)


def publish(source, last_line=None):
    # In a process that ends itself by SIGKILL before its line number `last_line`.
    lines = 0

    def trace(frame, event, argument):
        nonlocal lines
        lines += event == "line"
        if lines == last_line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    store.publish(source, where, "demo")
    sys.settrace(None)
    return lines


def killed(source, last_line, wait_s):
    child = os.fork()
    if child == 0:
        if last_line is None:
            store.publish(source, where, "demo")
        else:
            publish(source, last_line)
        os._exit(0)
    if wait_s is not None:
        time.sleep(wait_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


publish(make_artifact(root / "first", 0))
source = make_artifact(root / "second", count + 1)
# Of a publish like those that follow.
num_lines = publish(source)
times = []
for _ in range(9):
    started = time.perf_counter()
    killed(source, None, None)
    times.append(time.perf_counter() - started)
outcomes = {"old": 0, "between": 0, "new": 0, "left": 0, "killed": 0}
for number in range(1, count + 1):
    source = make_artifact(root / f"artifact{number}", number)
    before = store.read_entry(where, "demo")
    if number % 2:
        point = (generator.randint(1, int(1.05 * num_lines)), None)
    else:
        point = (None, generator.uniform(0, 1.2 * statistics.median(times)))
    outcomes["killed"] += killed(source, *point)
    after = store.read_entry(where, "demo")
    outcomes["left"] += any((where / "demo").glob(".publish-*"))
    new = [version for version in after.versions if version not in before.versions]
    assert len(new) <= 1 and set(before.versions) <= set(after.versions)
    moved = after.resolve() != before.resolve()
    assert not moved or [after.resolve()] == new
    outcomes["new" if moved else "between" if new else "old"] += 1
    for version in after.versions:
        store.verify_version(where, "demo", version)
    collect(where, Policy(keep=3, min_age_s=0))
    assert not list((where / "demo").glob(".*"))
print(json.dumps(outcomes))
"""


def test_killed_at_random_points_of_500_publishes(tmp_path: Path) -> None:
    """Half of them at a random line of the program, half after a random time."""
    # A kill loses nothing that was written, so memory serves as well as a disk, and faster.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as root:
        done = subprocess.run(
            [sys.executable, "-c", KILLER, root, "500"],
            capture_output=True, text=True, timeout=240,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert outcomes["old"] + outcomes["between"] + outcomes["new"] == 500
    # Those at random lines: all but a few of 250, and most of them before the rename.
    assert outcomes["killed"] >= 200
    assert outcomes["old"] >= 100
    assert outcomes["left"] >= 100
    assert outcomes["new"] >= 10
