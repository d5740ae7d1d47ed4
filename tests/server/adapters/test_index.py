"""The store's content in memory: equal to the disk's whatever happens, and cheap."""

import gc
import json
import os
import random
import shutil
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.adapters import index as module
from server.adapters.index import StoreIndex
from server.adapters.store import close_names
from understudy import store as layout
from understudy.artifact import MANIFEST_FILE, TENSORS_FILE, Manifest

NAMES = ("first", "second")
VERSIONS = ("0" * 16, "1" * 16, "2" * 16)
MANIFEST = Manifest(
    name="x", method="lora", base_fingerprint="f" * 64, base_name="tiny", base_architecture="none",
    quantization="nf4", rank=8, prompt_template="{{ input }}" * 20, content_hash="0" * 64,
)  # fmt: skip


def add(root: Path, name: str, version: str) -> None:
    directory = root / name / version
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MANIFEST_FILE).write_text(MANIFEST.to_json())
    (directory / TENSORS_FILE).write_bytes(b"12345")


def act(root: Path, action: str, name: str, version: str) -> None:
    match action:
        case "add":
            add(root, name, version)
        case "remove":
            shutil.rmtree(root / name / version, ignore_errors=True)
        case "remove name":
            shutil.rmtree(root / name, ignore_errors=True)
        case "alias" if version in layout.versions(root, name):
            layout.set_alias(root, name, "latest", version)
        case "no alias":
            layout.remove_alias(root, name, "latest")
        case "age" if (root / name).exists():
            # As if nothing had happened for a while: what is read from now on is kept.
            for folder in (root, root / name):
                at = os.stat(folder).st_mtime_ns - random.randint(5, 500) * 10**9
                os.utime(folder, ns=(at, at))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    actions=st.lists(
        st.tuples(
            st.sampled_from(["add", "add", "remove", "remove name", "alias", "no alias", "age"]),
            st.sampled_from(NAMES),
            st.sampled_from(VERSIONS),
            st.booleans(),
        ),
        max_size=20,
    )
)
def test_equal_to_the_disk(tmp_path: Path, actions: list[tuple[str, str, str, bool]]) -> None:
    root = tmp_path / str(time.monotonic_ns())
    root.mkdir()
    index = StoreIndex(root)
    for action, name, version, look in actions:
        act(root, action, name, version)
        if not look:
            continue
        for each in NAMES:
            entry = layout.read_entry(root, each)
            assert index.entry(each) == entry
            for known in entry.versions:
                facts = index.facts(each, known)
                assert facts is not None
                assert (facts.method, facts.rank, facts.size_bytes) == ("lora", 8, 5)
        assert index.names() == layout.names(root)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 2,000 names with a version and an alias each, an hour old."""
    root = tmp_path_factory.mktemp("many")
    at = time.time() - 3600
    for number in range(2000):
        name = f"name{number:05}"
        version = f"{number:016x}"
        add(root, name, version)
        (root / name / "latest").write_text(version + "\n")
        os.utime(root / name, (at, at))
    os.utime(root, (at, at))
    return root


def test_nothing_is_read_twice(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    read_entry = layout.read_entry

    def counted(store: Path, name: str) -> layout.Entry:
        read.append(name)
        return read_entry(store, name)

    monkeypatch.setattr(layout, "read_entry", counted)
    index = StoreIndex(many)
    assert len(index.names()) == 2000
    assert len(read) == 2000
    for _ in range(3):
        assert len(index.names()) == 2000
        assert index.entry("name00042").resolve() == f"{42:016x}"
    assert len(read) == 2000
    add(many, "name00042", "f" * 16)
    (many / "name00042" / "latest").unlink()
    assert index.entry("name00042").resolve() == "f" * 16
    shutil.rmtree(many / "name00042" / ("f" * 16))
    (many / "name00042" / "latest").write_text(f"{42:016x}")
    assert index.entry("name00042").resolve() == f"{42:016x}"
    assert read[2000:] == ["name00042"] * 2


def test_an_idle_name_takes_little_memory(many: Path) -> None:
    """Names, versions, aliases and what lists show: far below 4 KiB each."""
    index = StoreIndex(many)

    def held_bytes() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = held_bytes()
        names = index.names()
        of_names = held_bytes() - before
        for name in names[:200]:
            version = index.entry(name).resolve()
            assert version is not None
            assert index.facts(name, version) is not None
        of_facts = held_bytes() - before - of_names
    finally:
        tracemalloc.stop()
    assert of_names / len(names) + of_facts / 200 < 1200


def test_what_cannot_be_read_is_asked_again(tmp_path: Path) -> None:
    version = VERSIONS[0]
    (tmp_path / "first" / version).mkdir(parents=True)
    index = StoreIndex(tmp_path)
    assert index.names() == ["first"]
    assert index.facts("first", version) is None
    (tmp_path / "first" / version / MANIFEST_FILE).write_text(json.dumps({"format": 7}))
    assert index.facts("first", version) is None
    add(tmp_path, "first", version)
    assert index.facts("first", version) is not None


def test_a_change_within_one_tick_of_the_clock_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two changes with the same time: the first reading is not trusted."""
    index = StoreIndex(tmp_path)
    add(tmp_path, "first", VERSIONS[0])
    assert index.entry("first").versions == (VERSIONS[0],)
    changed = os.stat(tmp_path / "first").st_mtime_ns
    add(tmp_path, "first", VERSIONS[1])
    os.utime(tmp_path / "first", ns=(changed, changed))
    assert set(index.entry("first").versions) == set(VERSIONS[:2])
    monkeypatch.setattr(module, "_COARSE_NS", 0)
    index.entry("first")
    add(tmp_path, "first", VERSIONS[2])
    os.utime(tmp_path / "first", ns=(changed, changed))
    assert len(index.entry("first").versions) == 2, "without the margin it is missed"


def test_a_folder_that_cannot_be_read_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        add(tmp_path, name, VERSIONS[0])
    read_entry = layout.read_entry

    def denied(store: Path, name: str) -> layout.Entry:
        # As the system says, which lets a superuser read everything.
        if name == "first":
            raise PermissionError(13, "Permission denied")
        return read_entry(store, name)

    monkeypatch.setattr(layout, "read_entry", denied)
    index = StoreIndex(tmp_path)
    assert index.names() == ["second"]
    assert index.entry("first") == layout.Entry()


def test_names_that_look_alike() -> None:
    names = [f"name{number:05}" for number in range(5000)]
    assert close_names("name00042x", names)[0] == "name00042"
    assert close_names("nmae", ["name", "other"]) == ("name",)
    assert close_names("zzz", names) == ()
    assert close_names("anything", []) == ()
    started = time.perf_counter()
    close_names("name00042x", names)
    assert time.perf_counter() - started < 0.1
