"""What the suite itself costs, beside a server that answers at once."""

import json
import time
from pathlib import Path

import pytest

from evalsuite.__main__ import main
from tests.evalsuite import canned


def run(folder: Path, address: str, num: int) -> float:
    """Run a task of `num` samples and return the seconds of computing it took."""
    folder.mkdir()
    rows = [
        {"input": f"number {i}, with some more text behind it", "completion": canned.TEXT}
        for i in range(num)
    ]
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "t.yaml").write_text(
        'name: t\ndata: t.jsonl\ntemplate: "{{ input }}"\nmetrics: [exact_match]\n'
    )
    command = ["run", "--server", address, "--adapters", "base", "--tasks", str(folder / "t.yaml")]
    before = time.process_time()
    assert main([*command, "--shots", "0", "--out", str(folder / "out"), "--json"]) == 0
    return time.process_time() - before


def test_two_thousand_completions_a_second(
    tmp_path: Path, canned_address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Computing time, which other work on the machine does not lengthen much, of asking, logging,
    scoring and writing; without what does not depend on the number of samples."""
    few = run(tmp_path / "few", canned_address, 500)
    many = run(tmp_path / "many", canned_address, 6500)
    report = json.loads((tmp_path / "many" / "out" / "report.json").read_text())
    assert report["tasks"]["t"]["rows"]["base"]["metrics"]["exact_match"]["value"] == 1.0
    rate = 6000 / (many - few)
    print(f"{rate:.0f} completions per second of computing")
    assert rate >= 2000
