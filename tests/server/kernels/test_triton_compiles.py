"""Triton's kernels compile, to machine code, for devices that are not here."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

# What one block may take, in bytes, at least: NVIDIA's CUDA programming guide, technical
# specifications per compute capability.
SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}


@pytest.mark.timeout(1200)  # Compilers: half a minute where nothing else runs.
@pytest.mark.parametrize("capability", sorted(SHARED_BYTES))
def test_tritons_kernels_compile(capability: int, tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "tests.server.kernels.compile_triton", str(capability)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["kernel"] for one in found] == ["_shrink", "_expand", "_scale_input", "_draw"]
    assert all(one["shared_bytes"] <= SHARED_BYTES[capability] for one in found)
