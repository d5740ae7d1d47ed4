"""The benchmark itself works: a tiny model, one short round, real processes."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.bench.__main__ import EXAMPLES
from tests.bench.load import least_recent_first, prompts, zipf
from tests.bench.plan import FULL_PLAN, QUICK_PLAN
from tests.bench.report import draw, write_page

Quick = tuple[dict[str, Any], str]
ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"


@pytest.fixture(scope="module")
def quick() -> Quick:
    """What `--quick` prints: the closing JSON, and all of its output."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick"],
        cwd=ROOT,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


def test_json_has_what_is_asked_for(quick: Quick) -> None:
    found, _ = quick
    ours = "base lora8 lora8_soft nf4_packed nf4_held nf4_lora8 lora1000 lora1000_resident"
    assert found["ours"].keys() == set(ours.split())
    assert found["peft"].keys() == {"base", "lora8"}
    speeds = [*found["ours"].values(), *found["peft"].values(), *found["engine"].values()]
    assert all(speed > 0 for speed in speeds)
    names = "lora8_overhead lora8_extra_ms lora8_bytes_ms ratio_lora8_vs_peft grpc_cost"
    names += " ttft_ms_p50 ttft_ms_p95 ttft_ms_p99 itl_ms_p50 itl_ms_p95 itl_ms_p99"
    assert all(isinstance(found[name], float) for name in names.split())
    assert found["ttft_ms_p50"] <= found["ttft_ms_p99"]


def test_ratios_are_of_the_shown_speeds(quick: Quick) -> None:
    found, _ = quick
    ours, peft = found["ours"], found["peft"]
    assert found["lora8_overhead"] == pytest.approx(1 - ours["lora8"] / ours["base"], abs=2e-3)
    assert found["ratio_lora8_vs_peft"] == pytest.approx(ours["lora8"] / peft["lora8"], rel=2e-3)


def test_bytes_are_those_of_the_shape(quick: Quick) -> None:
    found, _ = quick
    shape = QUICK_PLAN.shape
    assert found["resident_bytes"].keys() == {"bf16", "nf4_packed", "nf4_held"}
    assert found["linear_bytes"]["bf16"] == shape.linear_bytes
    assert found["linear_bytes"]["nf4_packed"] <= 0.35 * shape.linear_bytes
    assert found["lora8_bytes"] == 2 * sum(shape.lora_bytes(rank) for rank in (8, 16, 32, 16))


def test_ours_and_the_baseline_run_the_same_model(quick: Quick) -> None:
    found, _ = quick
    assert all(share >= 0.75 for share in found["agreement"].values())


def test_adapters_beyond_the_cap_are_read_from_disk(quick: Quick) -> None:
    found, _ = quick
    assert 0 < found["lora1000_loads"] < QUICK_PLAN.many_requests


def test_page_takes_the_results(quick: Quick, tmp_path: Path) -> None:
    found, shown = quick
    page = tmp_path / "benchmarks.md"
    text = PAGE.read_text(encoding="utf-8")
    page.write_text(text, encoding="utf-8")
    sweep = {"ours": {"0": 9.0, "8": 8.0}, "peft": {"0": 5.0, "8": 1.0}}
    write_page(page, found | {"sweep": sweep})
    written = page.read_text(encoding="utf-8")
    assert str(found["ours"]["lora8"]) in written
    assert str(found["ours"]["lora8"]) in shown
    assert "](benchmarks.svg)" in written
    assert "<text" in page.with_suffix(".svg").read_text(encoding="utf-8")
    # Written again, only the measured part changes.
    assert written.startswith(text.partition("<!-- measured")[0])
    write_page(page, found | {"sweep": sweep})
    assert page.read_text(encoding="utf-8") == written


EXAMPLE = re.compile(r"^  (python -m tests\.bench.*?)(?: {3}.*)?$", re.MULTILINE)


@pytest.mark.parametrize("command", EXAMPLE.findall(EXAMPLES))
def test_example(command: str, parse_command: Callable[[Sequence[str]], None]) -> None:
    parse_command(shlex.split(command))


def test_there_are_examples() -> None:
    assert "python -m tests.bench --quick" in EXAMPLE.findall(EXAMPLES)


def test_plot_as_png(tmp_path: Path) -> None:
    draw(tmp_path / "plot.png", {"ours": {"0": 9.0, "8": 8.0}})
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_prompts_differ_between_rounds() -> None:
    plan = FULL_PLAN
    first, second = (prompts(plan.shape, plan.load, 16, seed) for seed in ("base/0", "base/1"))
    assert not {tuple(p[:8]) for p in first} & {tuple(p[:8]) for p in second}
    assert first == prompts(plan.shape, plan.load, 16, "base/0")


def test_zipf_favours_the_first() -> None:
    names = [str(i) for i in range(1000)]
    drawn = zipf(names, 20_000, "seed")
    # The 1000th harmonic number is 7.485.
    assert drawn.count("0") / 20_000 == pytest.approx(1 / 7.485, abs=0.01)
    assert drawn.count("1") / 20_000 == pytest.approx(0.5 / 7.485, abs=0.01)


def test_what_a_cache_would_hold() -> None:
    names = [str(i) for i in range(100)]
    held = least_recent_first(names, 30, "seed")
    assert len(set(held)) == 30
    assert "0" in held[-10:]
