"""Threads: what the machine, the container and the environment leave."""

import os
from pathlib import Path

import pytest

from server.models import processor
from server.models.processor import num_cores, num_threads_asked


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight logical processors, two on each of four cores."""
    for n in range(8):
        folder = tmp_path / f"cpu{n}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{n % 4},{n % 4 + 4}\n")
    monkeypatch.setattr(processor, "_CPUS", tmp_path)
    monkeypatch.setattr(processor, "_CGROUP_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    return tmp_path


def test_logical_processors_of_a_core_count_once(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert num_cores() == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 4, 1})
    assert num_cores() == 2
    # A machine that does not tell.
    monkeypatch.setattr(processor, "_CPUS", machine / "nowhere")
    assert num_cores() == 3


@pytest.mark.parametrize(
    ("limit", "found"),
    [("max 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), ("", 4)],
)
def test_a_container_has_no_more_than_its_limit(machine: Path, limit: str, found: int) -> None:
    (machine / "cpu.max").write_text(limit + "\n")
    assert num_cores() == found


def test_this_machine() -> None:
    assert 1 <= num_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("text", "found"), [("3", 3), ("4,2", 4), ("0", None), ("many", None), ("", None)]
)
def test_the_environment_may_say(
    text: str, found: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert num_threads_asked() == found
