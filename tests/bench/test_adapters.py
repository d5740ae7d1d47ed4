"""The benchmark of many adapters works: a tiny model, one short round, a real process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from server.config import AdaptersConfig
from tests.bench.adapters import QUICK_PLAN

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "benchmarks.md"
    path.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def found(page: Path) -> dict[str, Any]:
    """The closing JSON of `--quick`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.adapters", "--quick", "--write", str(page)],
        cwd=ROOT,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_figures_agree(found: dict[str, Any]) -> None:
    assert found["num_registered"] == QUICK_PLAN.num_registered
    # 200 of them: what the process grows by is mostly chance, what its objects take is not.
    assert 0 < found["idle_adapter_heap_bytes"] < 4096
    for percent in (50, 99):
        quiet, loading = found[f"itl_ms_p{percent}"], found[f"itl_ms_p{percent}_loading"]
        assert quiet > 0
        assert found[f"itl_p{percent}_ratio"] == pytest.approx(loading / quiet, rel=0.1)
    assert found["itl_ms_p50"] <= found["itl_ms_p99"]
    ratio = found["cold_ms"] / (found["warm_ms"] + found["read_ms"])
    assert found["cold_vs_warm_and_read"] == pytest.approx(ratio, rel=0.1)
    ratio = found["cold_ms"] / (found["warm_ms"] + found["load_ms"])
    assert found["cold_vs_warm_and_load"] == pytest.approx(ratio, rel=0.1)
    assert found["loads_per_s"] > 0
    assert found["load_share"] == AdaptersConfig().load_share
    assert found["foreign_cores"] >= 0


def test_the_page_shows_them(found: dict[str, Any], page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text != PAGE.read_text(encoding="utf-8")
    assert f"{found['itl_p99_ratio']} of the p99 between tokens" in text
    before, after = (t.split("<!-- measured adapters:")[0] for t in (PAGE.read_text(), text))
    assert before == after
