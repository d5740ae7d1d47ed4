"""The benchmark of a CUDA device runs wherever Triton's interpreter does, and goes on where it
stopped."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)


def test_every_section_of_tritons_benchmark_runs_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bench.gpu", "--quick", "--work", str(tmp_path)]
    first = subprocess.run(
        [*command, "--sections", "ceiling,lora"], check=True, capture_output=True, text=True
    )
    assert [json.loads(line)["section"] for line in first.stdout.splitlines()] == [
        "ceiling",
        "lora",
    ]
    rest = subprocess.run(command, check=True, capture_output=True, text=True)
    found = {line["section"]: line["found"] for line in map(json.loads, rest.stdout.splitlines())}
    assert list(found) == [
        "linear", "attention", "sampler", "flashinfer", "nf4_table", "disk", "decode_torch",
        "decode_triton", "decode_graphs", "decode_nf4_table", "decode_flashinfer", "transfers",
    ]  # fmt: skip
    assert (tmp_path / "nf4.json").is_file()
    assert found["transfers"]["placed"] > 0
    if not torch.cuda.is_available():
        for name, reason in (
            ("flashinfer", "flashinfer: not for cpu"),
            ("decode_graphs", "engine.cuda_graphs: the base is on cpu; leave it off"),
            ("decode_flashinfer", "attention 'flashinfer': not for cpu; choose 'auto'"),
        ):
            assert found[name] == {"skipped": reason}
    for name in ("decode_torch", "decode_triton"):
        assert [(one["batch"], one["adapters"]) for one in found[name]] == [(2, 0), (2, 1), (2, 2)]
        assert all(one["step_s"] > 0 for one in found[name])
    wrong = subprocess.run([*command, "--sections", "none"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "no section 'none'; there are ceiling," in wrong.stderr
