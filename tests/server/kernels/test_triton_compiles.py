"""Triton's kernels compile, to machine code, for devices that are not here, and fit them."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import server.kernels

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

# What one block may take, in bytes, at least: NVIDIA's CUDA programming guide, technical
# specifications per compute capability.
SHARED_BYTES = {80: 163 * 1024, 90: 227 * 1024}
_LAUNCH = re.compile(r"^ +(_\w+)\[.*\]\($", re.MULTILINE)


def launched_kernels() -> set[str]:
    """The names of all kernels that the server launches."""
    sources = (Path(server.kernels.__file__).parent).glob("triton_*.py")
    return {name for path in sources for name in _LAUNCH.findall(path.read_text())}


@pytest.mark.timeout(1200)  # Compilers: half a minute where nothing else runs.
@pytest.mark.parametrize("capability", sorted(SHARED_BYTES))
def test_tritons_kernels_compile(capability: int, tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "tests.server.kernels.compile_triton", str(capability)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["kernel"] for one in found} == launched_kernels()
    assert len(found) == len({(one["kernel"], one["variant"]) for one in found})
    for one in found:
        assert one["shared_bytes"] <= SHARED_BYTES[capability], one
        assert not one["spilled_bytes"], one
