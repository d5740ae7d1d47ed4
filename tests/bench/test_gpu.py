"""The benchmark of a CUDA device runs wherever Triton's interpreter does, and goes on where it
stopped."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.bench.gpu_child import run_alone

ROOT = Path(__file__).resolve().parents[2]
NEEDS_CUDA = {
    "flashinfer": "flashinfer: needs CUDA",
    "decode_graphs": "engine.cuda_graphs: needs CUDA",
    "decode_flashinfer": "engine.cuda_graphs: needs CUDA",
}


def test_a_section_has_a_time_limit_and_takes_along_what_it_started(tmp_path: Path) -> None:
    log = tmp_path / "log"
    started = time.monotonic()
    answer = run_alone(_start_another_and_wait, (), limit_s=1.5, log=log, method="fork")
    assert time.monotonic() - started < 30
    assert answer["error"] == "took longer than its 1.5 s"
    pid = int(log.read_text())
    for _ in range(100):
        if not _lives(pid):
            break
        time.sleep(0.1)
    assert not _lives(pid)


def test_a_section_that_ends_without_an_answer_is_an_error(tmp_path: Path) -> None:
    answer = run_alone(os._exit, (3,), limit_s=60, log=tmp_path / "log", method="fork")
    assert answer["error"].startswith("ended with exit code 3")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.timeout(1200)  # Every section, interpreted.
def test_every_section_runs_and_one_that_failed_runs_again(tmp_path: Path) -> None:
    # There is no base yet.
    code, lines = _run(tmp_path, "--sections", "ceiling,decode_torch,lora")
    assert code == 1
    assert [line["section"] for line in lines] == ["ceiling", "decode_torch", "lora"]
    assert "no such directory" in lines[1]["error"]
    code, lines = _run(tmp_path)
    assert code == 0, lines
    assert all(line["quick"] and line["seconds"] > 0 and line["date"] for line in lines)
    found = {line["section"]: line for line in lines}
    assert list(found) == [
        "linear", "attention", "sampler", "flashinfer", "nf4_table", "disk", "decode_torch",
        "decode_triton", "decode_graphs", "decode_nf4_table", "decode_flashinfer", "transfers",
    ]  # fmt: skip
    assert (tmp_path / "quick" / "nf4.json").is_file()
    assert found["transfers"]["found"]["placed"] > 0
    if not torch.cuda.is_available():
        assert {n: line["skipped"] for n, line in found.items() if "skipped" in line} == NEEDS_CUDA
    for name in ("decode_torch", "decode_triton"):
        steps = found[name]["found"]
        assert [(one["batch"], one["adapters"]) for one in steps] == [(2, 0), (2, 1), (2, 2)]
        assert all(one["step_s"] > 0 for one in steps)
    assert _run(tmp_path) == (0, [])


def test_a_section_that_there_is_not_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench.gpu", "--work", str(tmp_path)]
    done = subprocess.run([*command, "--sections", "none"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no section 'none'; there are ceiling," in done.stderr


def _run(work: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    command = [sys.executable, "-m", "tests.bench.gpu", "--quick", "--work", str(work)]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def _start_another_and_wait() -> None:
    process = subprocess.Popen(["sleep", "60"])
    print(process.pid, flush=True)
    process.wait()


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
