"""What the page says of jobs that train together; the runs themselves are the trainer's tests."""

from pathlib import Path

import pytest

from tests.bench.jobs import JOBS, report, write_page

ROOT = Path(__file__).resolve().parents[2]
FOUND = {
    "date": "2026-01-02",
    "command": "python -m tests.bench.jobs",
    "cpu": "a processor",
    "shape": "a shape",
    "held": True,
    "base_bytes": 100_000_000,
    "state_bytes": dict.fromkeys(JOBS, 10_000_000),
    "alone_peak_bytes": dict.fromkeys(JOBS, 160_000_000),
    "besides_bytes": 50_000_000,
    "peak_bytes": 192_000_000,
    "bound_bytes": 209_000_000,
    "saved_bytes": 300_000_000,
    "equal": [True] * (len(JOBS) - 1) + [False],
}


def test_the_page_gets_the_numbers(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    page.write_text(text, encoding="utf-8")
    write_page(page, FOUND)
    written = page.read_text(encoding="utf-8")
    assert "Measured 2026-01-02 with `python -m tests.bench.jobs`: a shape" in written
    assert "| lora16 | 10.0 MB | 160.0 MB | yes |" in written
    assert "| ia3 | 10.0 MB | 160.0 MB | NO |" in written
    # 192 of 100 + 4 x 10 + 50.
    assert "192.0 MB, 1.011 of base, states and that (190.0 MB)" in " ".join(report(FOUND))
    marks = "<!-- measured jobs:"
    assert written.split(marks)[0] == text.split(marks)[0]
    page.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="has no part between marks"):
        write_page(page, FOUND)
