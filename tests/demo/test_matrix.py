"""The README's table of gains and losses: how it is written, and that it is current."""

from pathlib import Path
from typing import Any

import pytest

from demo.matrix import BEGIN, BLOCK, END, README, main, table, versions_of
from demo.ready import find_ready
from demo.roles import BASE, PROSE, ROLES, STORE, TASKS


def cell(gain: float | None, finding: str) -> dict[str, Any]:
    return {"gain": gain, "finding": finding}


MATRIX: dict[str, Any] = {
    "settings": {"tests": {"alpha": 0.05}, "num_tests": 4, "correction": "holm"},
    "tasks": {
        "notes": {"metric": "bleu", "base": 4.123, "num_samples": 200},
        "text": {"metric": "bits_per_byte", "base": 1.234, "num_samples": 31},
    },
    "rows": {
        "a-b": {
            "own_task": "notes",
            "mean_loss": 1.5,
            "cells": {"notes": cell(62.08, "gain"), "text": cell(-0.456, "loss")},
        },
        "soft": {
            "own_task": None,
            "mean_loss": None,
            "cells": {"notes": cell(0.0, "none"), "text": cell(None, "unscored")},
        },
    },
}


def test_table() -> None:
    lines = table(MATRIX, {"a-b": "0123456789abcdef", "soft": "fedcba9876543210"}).splitlines()
    assert lines[:6] == [
        "|  | base | a-b | soft |",
        "| --- | ---: | ---: | ---: |",
        "| version |  | `012345` | `fedcba` |",
        "| notes, bleu | 4.12 | **+62.1**\\* | +0.00 |",
        "| text, bits_per_byte | 1.23 | -0.46\\* | – |",
        "| mean loss elsewhere, points |  | 1.50 | – |",
    ]
    assert "p ≤ 0.05, corrected over 4 cells (Holm). 31 to 200 samples" in lines[-1]


def test_the_readme_shows_the_adapters_that_come_with_the_demo() -> None:
    """Fails when they were made anew: `python -m demo.matrix` measures and writes it."""
    (block,) = BLOCK.findall(README.read_text(encoding="utf-8"))
    names = [role.adapter for role in ROLES]
    head, _, versions, *rows = [line.strip("| ").split(" | ") for line in block.splitlines()]
    assert head == ["base", *names]
    shown = [version.strip("` ") for version in versions[-len(names) :]]
    assert shown == [v[:6] for v in versions_of(find_ready(STORE, names, BASE)).values()]
    assert [row[0].split(",")[0] for row in rows[: len(TASKS) + 1]] == [*TASKS, "text"]
    assert f"`text` is demo/{PROSE.name}." in block


def test_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("no marks\n")
    with pytest.raises(SystemExit) as ended:
        main(["--page", str(page)])
    assert ended.value.code == 2
    assert f"must hold the marks once: {BEGIN} and {END}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--num-test", "0"])
    assert main(["--page", str(tmp_path / "none.md")]) == 1
