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

from tests.bench.gpu import main
from tests.bench.gpu_child import run_alone
from tests.bench.gpu_page import MARKS, write_page
from tests.bench.gpu_results import Results
from tests.bench.gpu_sections import SECTIONS
from tests.bench.shape import ATTENTION, LINEARS, LLAMA_8B, TINY

ROOT = Path(__file__).resolve().parents[2]
NEEDS_CUDA = {
    "flashinfer": "flashinfer: needs CUDA",
    "decode_graphs": "engine.cuda_graphs: needs CUDA",
    "decode_flashinfer": "engine.cuda_graphs: needs CUDA",
    "demo": "the demo on a device: needs CUDA",
}


def test_a_section_has_a_time_limit_and_takes_along_what_it_started(tmp_path: Path) -> None:
    file, log = tmp_path / "pid", tmp_path / "log"
    started = time.monotonic()
    answer = run_alone(_start_another_and_wait, (file,), limit_s=1.5, log=log, method="fork")
    assert time.monotonic() - started < 30
    assert answer["error"] == "took longer than its 1.5 s"
    pid = int(file.read_text())
    for _ in range(100):
        if not _lives(pid):
            break
        time.sleep(0.1)
    assert not _lives(pid)


def test_a_section_that_ends_without_an_answer_is_an_error(tmp_path: Path) -> None:
    answer = run_alone(os._exit, (3,), limit_s=60, log=tmp_path / "log", method="spawn")
    assert answer["error"].startswith("ended with exit code 3")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.timeout(1200)  # Every section, interpreted.
def test_every_section_of_tritons_benchmark_runs_and_one_that_failed_runs_again(
    tmp_path: Path,
) -> None:
    # There is no base yet.
    code, lines = _run(tmp_path, "--sections", "ceiling,decode_torch,lora")
    assert code == 1
    assert [line["section"] for line in lines] == ["ceiling", "decode_torch", "lora"]
    assert "no such directory" in lines[1]["error"]
    code, lines = _run(tmp_path)
    assert code == 0, lines
    assert all(line["quick"] and line["seconds"] > 0 and line["date"] for line in lines)
    missing = {name: line["skipped"] for name, line in _by_name(lines).items() if "skipped" in line}
    found = {name: line["found"] for name, line in _by_name(lines).items() if "found" in line}
    if not torch.cuda.is_available():
        assert missing == NEEDS_CUDA
    assert found.keys() | missing.keys() | {"ceiling", "lora"} == SECTIONS.keys()
    assert (tmp_path / "quick" / "nf4.json").is_file()
    for name in ("linear", "elementwise", "attention", "sampler"):
        for row in found[name]:
            assert 0 < row["limit_s"] == pytest.approx(row["share"] * row["own_s"]), name
    for name in ("decode_torch", "decode_triton", "decode_nf4_table"):
        _check_steps(found[name]["steps"])
    assert [row["adapters"] for row in found["prefill"]] == [0, 1, 2]
    transfers = found["transfers"]
    assert transfers["placed"] > 0 < transfers["place_s"] <= transfers["place_p99_s"]
    ratio = transfers["beside"]["gap_p99_s"] / transfers["alone"]["gap_p99_s"]
    assert transfers["gap_p99_s_ratio"] == pytest.approx(ratio)
    assert found["registered"]["registered"] == 8
    assert found["registered"]["ratio"] > 0
    assert [row["case"] for row in found["peft"]] == ["base", "lora"]
    assert found["train"]["exit_code"] == 0
    assert _run(tmp_path) == (0, [])


def test_bytes_of_a_step_are_those_of_its_parts() -> None:
    # Of 4 billion weights in NF4 with a scale for 64, and a head in bf16.
    weights = LLAMA_8B.step_bytes(0, 0)
    linears = sum(out * into for out, into in LLAMA_8B.linears.values()) * LLAMA_8B.layers
    assert linears == 6_979_321_856
    head, norms = 2 * 4096 * 128256, 2 * 4096 * 65
    assert weights == linears * 0.5625 + head + norms
    # A row more: its embedding, what it reads of the cache, and what it writes.
    position = 2 * 2 * 32 * 8 * 128
    assert LLAMA_8B.step_bytes(1, 100) - weights == 2 * 4096 + 101 * position
    assert LLAMA_8B.lora_bytes(16) == 83_886_080
    assert LLAMA_8B.lora_bytes(16, ATTENTION) == 27_262_976


def test_results_become_tables_of_a_page(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl", "a device", quick=False)
    other = Results(tmp_path / "results.jsonl", "another", quick=False)
    step = {
        "batch": 32, "linears": "", "step_s": 0.004, "tokens_per_s": 8000.0, "bytes": 1e10,
        "limit_s": 0.003, "share": 0.75, "adapters": 0,
    }  # fmt: skip
    with_adapters = {**step, "adapters": 32, "linears": "attention", "extra": 1.234}
    launches = [{"batch": 1, "adapters": 0, "kernels": 321.0, "copies": 4.0}]
    decode = {"steps": [step, with_adapters], "launches": launches, "load_s": 1.0}
    norm = {
        "kernel": "rms_norm", "rows": 32, "own_s": 2e-6, "bytes_per_s": 3e12, "flop_per_s": 0.0,
        "limit_s": 1e-6, "share": 0.5,
    }  # fmt: skip
    results.add("decode_triton", {"error": "it failed", "seconds": 1.0})
    results.add("decode_triton", {"found": decode, "seconds": 1.0})
    results.add("elementwise", {"found": [norm], "seconds": 1.0})
    results.add("demo", {"error": "exit code 1: a | b", "seconds": 1.0})
    other.add("elementwise", {"found": [], "seconds": 1.0})
    assert results.is_done("decode_triton")
    assert not results.is_done("demo")
    assert not other.is_done("decode_triton")
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- measured gpu: by x -->\nold\n<!-- end of measured gpu -->\nafter\n"
    )
    write_page(page, results.latest())
    lines = page.read_text().splitlines()
    assert "old" not in lines
    assert lines[0] == "before"
    assert lines[-1] == "after"
    assert "| triton | 32 | 0 | 4.00 | 75% | 8,000 |  |" in lines
    assert "| triton | 32 | 32, attention only | 4.00 | 75% | 8,000 | 1.23 |" in lines
    assert "| triton | 1 | 0 | 321 | 4 |" in lines
    assert "| rms_norm | rows 32 | 2.0 | 3,000 | 0.0 | 50% |  |" in lines
    assert "| demo | not measured: exit code 1: a / b |" in lines
    with pytest.raises(ValueError, match="no part between marks"):
        write_page(tmp_path / "results.jsonl", results.latest())


def test_the_page_has_the_part_that_is_written() -> None:
    assert MARKS.search((ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--sections", "none"), "no section 'none'; there are ceiling,"),
        (("--quick", "--write", "page.md"), "--write: figures of a tiny model belong on no page"),
    ],
)
def test_wrong_arguments_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--work", str(tmp_path), *arguments])
    assert reason in capsys.readouterr().err


def _run(work: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    command = [sys.executable, "-m", "tests.bench.gpu", "--quick", "--work", str(work)]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def _by_name(lines: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {line["section"]: line for line in lines}


def _check_steps(steps: list[dict[str, Any]]) -> None:
    kinds = [("", 0), ("lora", 1), ("lora", 2), ("attention", 1), ("attention", 2)]
    assert [(row["linears"], row["adapters"]) for row in steps] == kinds
    for row in steps:
        assert row["share"] == pytest.approx(row["limit_s"] / row["step_s"])
        linears = {"": (), "lora": LINEARS, "attention": ATTENTION}[row["linears"]]
        own = row["bytes"] - steps[0]["bytes"]
        assert own == row["adapters"] * TINY.lora_bytes(16, linears)
        if own:
            bandwidth = row["bytes"] / row["limit_s"]
            extra_s = row["step_s"] - steps[0]["step_s"]
            assert row["extra"] == pytest.approx(extra_s / (own / bandwidth))


def _start_another_and_wait(file: Path) -> None:
    process = subprocess.Popen(["sleep", "60"])
    file.write_text(str(process.pid))
    process.wait()


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
