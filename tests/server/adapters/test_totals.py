"""What the store holds, counted beside whoever asks."""

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.adapters.store import AdapterStore
from server.adapters.totals import StoreTotals
from understudy import store as layout


def add(root: Path, name: str, version: str, size: int) -> Path:
    directory = root / name / (version * 16)
    directory.mkdir(parents=True)
    (directory / "adapter_model.safetensors").write_bytes(bytes(size))
    return directory


class Clock:
    """Seconds, set by the test."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_counts_every_half_minute(tmp_path: Path) -> None:
    add(tmp_path, "one", "0", 10)
    gone = add(tmp_path, "one", "1", 200)
    add(tmp_path, "two", "0", 3000)
    clock = Clock()
    with ThreadPoolExecutor(1) as executor:
        totals = StoreTotals(AdapterStore(tmp_path), executor, clock)
        executor.submit(lambda: None).result()
        assert totals.read() == (3, 3210)
        shutil.rmtree(gone)
        (add(tmp_path, "three", "0", 0) / "adapter_model.safetensors").unlink()
        clock.now = 29.0
        assert totals.read() == (3, 3210)
        executor.submit(lambda: None).result()
        assert totals.read() == (3, 3210)
        clock.now = 31.0
        totals.read()
        executor.submit(lambda: None).result()
        assert totals.read() == (3, 3010)
        clock.now = 99.0
    # Shut down: nothing to wait for, and nothing raised.
    assert totals.read() == (3, 3010)


def test_nobody_waits_for_a_slow_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add(tmp_path, "one", "0", 10)
    clock, is_back, counting = Clock(), threading.Event(), []
    read_entry = layout.read_entry

    def slow(root: Path, name: str) -> layout.Entry:
        counting.append(name)
        is_back.wait(30)
        if len(counting) == 1:
            raise OSError("gone")
        return read_entry(root, name)

    monkeypatch.setattr(layout, "read_entry", slow)
    with ThreadPoolExecutor(4) as executor:
        totals = StoreTotals(AdapterStore(tmp_path), executor, clock)
        for now in (31.0, 62.0, 93.0):
            clock.now = now
            assert totals.read() == (0, 0)
        assert len(counting) <= 1
        is_back.set()
        while "cannot count" not in caplog.text:
            time.sleep(0.01)
        clock.now = 130.0
        while totals.read() != (1, 10):
            clock.now += 31.0


def test_without_a_store() -> None:
    with ThreadPoolExecutor(1) as executor:
        totals = StoreTotals(AdapterStore(None), executor)
        executor.submit(lambda: None).result()
        assert totals.read() == (0, 0)
