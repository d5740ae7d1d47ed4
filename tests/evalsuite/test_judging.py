"""People's votes: the page without names, its key, and what is made of the votes."""

import json
import math
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize

from evalsuite.__main__ import main
from evalsuite.judging import TIE, Vote, bradley_terry, judge, judgement_fields, krippendorff_alpha
from evalsuite.stats import wilson
from tests.evalsuite.test_page import Page


def vote(sample: int, winner: str, who: str = "j", first: str = "a", second: str = "b") -> Vote:
    return Vote(who, "t", str(sample), first, second, winner)


def test_bradley_terry_is_the_maximum_of_its_likelihood() -> None:
    wins = np.array([[0, 7, 12], [3, 0, 8], [2, 4, 0]], dtype=float)

    def loss(free: np.ndarray) -> float:
        strengths = np.append(free, -free.sum())
        return sum(
            wins[i, j] * math.log1p(math.exp(strengths[j] - strengths[i]))
            for i in range(3)
            for j in range(3)
        )

    best = scipy.optimize.minimize(loss, np.zeros(2), tol=1e-14).x
    expected = np.append(best, -best.sum())
    assert bradley_terry(wins, prior=0.0) == pytest.approx(expected, abs=1e-6)


def test_one_that_always_wins_has_a_finite_strength() -> None:
    strengths = bradley_terry(np.array([[0.0, 50.0], [0.0, 0.0]]))
    assert np.isfinite(strengths).all()
    assert strengths[0] - strengths[1] == pytest.approx(math.log(50.1 / 0.1))


def test_alpha_of_krippendorffs_own_example() -> None:
    """Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section A: two observers,
    ten units, binary: 0.095."""
    one = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    two = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    votes = [
        vote(unit, "ab"[value], who)
        for who, values in (("A", one), ("B", two))
        for unit, value in enumerate(values)
    ]
    assert krippendorff_alpha(votes) == pytest.approx(0.095, abs=5e-4)


def test_alpha_of_chance_and_of_agreement() -> None:
    rng = random.Random(0)
    chance = [vote(i, rng.choice(["a", "b", TIE]), who) for i in range(2000) for who in "xyz"]
    assert krippendorff_alpha(chance) == pytest.approx(0.0, abs=0.05)
    same = [vote(i, "ab"[i % 2], who) for i in range(20) for who in "xy"]
    assert krippendorff_alpha(same) == 1.0
    alone = [vote(i, "a") for i in range(20)]
    assert math.isnan(krippendorff_alpha(alone))


def test_win_rate_and_order() -> None:
    votes = [vote(i, "a") for i in range(60)] + [vote(i + 60, "b") for i in range(20)]
    votes += [vote(i + 80, TIE) for i in range(20)]
    votes += [vote(i + 100, "c", first="b", second="c") for i in range(30)]
    fields = judgement_fields(judge(votes, num_resamples=100))
    pair = fields["pairs"][0]
    assert (pair["wins"], pair["losses"], pair["ties"], pair["win_rate"]) == (60, 20, 20, 0.7)
    assert (pair["ci_low"], pair["ci_high"]) == wilson(70, 100, 0.95)
    found = fields["bradley_terry"]
    assert found["c"]["strength"] > found["a"]["strength"] > found["b"]["strength"]
    assert all(row["ci_low"] <= row["strength"] <= row["ci_high"] for row in found.values())
    assert fields["krippendorff_alpha"] is None


@pytest.fixture
def finished(server: Any, make_tasks: Callable[..., Any], tmp_path: Path) -> Path:
    files = make_tasks(num_test=40)
    server.gold = files.gold
    command = ["run", "--server", server.address, "--adapters", "base,gold,half", "--shots", "0"]
    assert main([*command, "--tasks", str(files.rewrite), "--out", str(tmp_path / "out")]) == 0
    return tmp_path / "out"


def saved(finished: Path, prefers: str, who: str) -> Path:
    """The file of a judge who always prefers one row, and else has no preference."""
    key = json.loads((finished / "blind-key.json").read_text())
    votes = {
        number: entry["rows"].index(prefers) if prefers in entry["rows"] else TIE
        for number, entry in key["pairs"].items()
    }
    path = finished / f"{who}.json"
    path.write_text(json.dumps({"page": key["page"], "judge": who, "votes": votes}))
    return path


def test_blind_page_and_votes(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(finished)]
    assert main(["compare", "--blind", "--adapters", "gold,half,base", *out]) == 0
    text = (finished / "blind.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.loads == []
    data = json.loads(page.scripts[0])
    assert set(data["pairs"][0]) == {"id", "input", "answers"}
    assert all(label not in page.scripts[0] for label in ("gold", "half", "base"))
    key = json.loads((finished / "blind-key.json").read_text())
    shown_first = [entry["rows"][0] == "gold" for entry in key["pairs"].values()
                   if "gold" in entry["rows"]]  # fmt: skip
    assert 0.25 < np.mean(shown_first) < 0.75
    samples = {
        (line["row"], line["id"]): line["output"]
        for line in map(json.loads, (finished / "samples.jsonl").read_text().splitlines())
    }
    for pair in data["pairs"]:
        entry = key["pairs"][pair["id"]]
        assert pair["answers"] == [samples[row, entry["sample"]] for row in entry["rows"]]
    capsys.readouterr()
    files = [str(saved(finished, "gold", "ann")), str(saved(finished, "half", "bob"))]
    assert main(["compare", "--votes", *files, "--json", *out]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert fields["num_judges"] == 2
    pair = next(p for p in fields["pairs"] if (p["first"], p["second"]) == ("gold", "half"))
    assert pair["wins"] == pair["losses"] > 0
    assert fields["bradley_terry"]["gold"]["strength"] > fields["bradley_terry"]["base"]["strength"]
    assert main(["compare", "--votes", *files, *out]) == 0
    assert "agreement of judges" in capsys.readouterr().out


def test_same_seed_same_page(finished: Path) -> None:
    command = ["compare", "--blind", "--adapters", "gold,half", "--out", str(finished)]
    pages = []
    for seed in ("1", "1", "2"):
        assert main([*command, "--seed", seed]) == 0
        pages.append((finished / "blind.html").read_bytes())
    assert [a == b for a, b in pairwise(pages)] == [True, False]


def test_wrong_use(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(finished)]

    def fails(*arguments: str) -> str:
        assert main(["compare", *arguments, *out]) == 2
        return capsys.readouterr().err

    assert "needs at least two rows" in fails("--blind", "--adapters", "gold")
    assert "no row 'glod'; did you mean 'gold'?" in fails("--blind", "--adapters", "glod,half")
    assert "cannot be read" in fails("--votes", "missing.json")
    assert main(["compare", "--blind", "--adapters", "gold,half", *out]) == 0
    path = saved(finished, "gold", "ann")
    votes = json.loads(path.read_text())
    for change, message in (
        ({"page": "other"}, "votes on page other, the key is of page"),
        ({"votes": {"999": 0}}, "a vote on pair '999', which the page does not have"),
        ({"votes": {"0": 7}}, "not a judge's votes"),
        ({"votes": {}}, "no votes in these files"),
        ({"extra": 1}, "not a judge's votes"),
    ):
        path.write_text(json.dumps({**votes, **change}))
        assert message in fails("--votes", str(path))
    path.write_bytes(b"\xff\xfe")
    assert "not a judge's votes" in fails("--votes", str(path))
