"""The gate: what it lets through, what it says, its exit codes and files."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from evalsuite.__main__ import main
from evalsuite.errors import InputError
from evalsuite.reports.gate import (
    GateResult,
    GateSettings,
    gate_fields,
    gate_junit,
    gate_markdown,
    judge,
)
from evalsuite.results import TaskResult
from evalsuite.stats import BootstrapConfig, TestConfig, Verdict
from tests.evalsuite.test_matrix import ones, result

TESTS = TestConfig(BootstrapConfig(num_resamples=500))


def gate(
    results: list[TaskResult],
    delta: float = 2.0,
    deltas: dict[str, float] | None = None,
    candidate: str = "new",
) -> GateResult:
    return judge(results, GateSettings(candidate, "base", delta, deltas or {}, TESTS))


def verdicts(result: GateResult) -> list[str]:
    return [str(task.verdict) for task in result.tasks]


def test_verdicts_on_right_or_wrong() -> None:
    same = result("same", {"base": ones(300, 600), "new": ones(300, 600)})
    assert verdicts(gate([same])) == ["pass"]
    worse = result("worse", {"base": ones(300, 600), "new": ones(240, 600)})
    assert verdicts(gate([worse])) == ["drop"]
    few = result("few", {"base": ones(5, 10), "new": ones(5, 10)})
    found = gate([few])
    assert verdicts(found) == ["underpowered"]
    needed = found.tasks[0].found.num_needed
    assert needed is not None
    assert 100 < needed < 2000
    assert str(needed) in found.tasks[0].says
    better = result("better", {"base": ones(5, 10), "new": ones(10, 10)})
    assert verdicts(gate([better])) == ["pass"]


def test_a_drop_within_the_noise_is_unclear() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(400)
    new = base - 0.02 + 0.1 * rng.normal(size=400)
    rows = {"base": base.tolist(), "new": new.tolist()}
    assert verdicts(gate([result("t", rows)])) == ["unclear"]


def test_scales_and_errors() -> None:
    rng = np.random.default_rng(1)
    base = 40 + 5 * rng.random(300)
    rows = {"base": base.tolist(), "new": (base - 1 + 0.1 * rng.random(300)).tolist()}
    bleu = result("bleu", rows, maximum=100.0)
    assert verdicts(gate([bleu], delta=2.0)) == ["pass"]
    assert verdicts(gate([bleu], delta=0.5)) == ["drop"]
    # An error: 1 is 2.4 percent of about 42.5, and more is worse.
    error = result("text", rows, less=True)
    assert verdicts(gate([error], delta=0.1)) == ["pass"]
    turned = {"base": rows["new"], "new": rows["base"]}
    worse = result("text", turned, less=True)
    assert verdicts(gate([worse], delta=1.0)) == ["drop"]
    assert gate([worse], delta=1.0).tasks[0].found.diff == pytest.approx(-0.95, abs=0.02)
    assert verdicts(gate([worse], delta=5.0)) == ["pass"]


def test_tasks_have_their_own_deltas() -> None:
    rows = {"base": ones(300, 600), "new": ones(290, 600)}
    results = [result("a", rows), result("b", rows)]
    assert verdicts(gate(results, 5.0, {"b": 0.5})) == ["pass", "drop"]


def test_tasks_are_corrected_together() -> None:
    rows = {"base": ones(300, 600), "new": ones(297, 600)}
    alone = gate([result("a", rows)], delta=1.1)
    many = gate([result(f"t{i}", rows) for i in range(10)], delta=1.1)
    assert many.tasks[0].p_adjusted == pytest.approx(min(1.0, 10 * alone.tasks[0].p_adjusted))
    assert many.tasks[0].found.power < alone.tasks[0].found.power


def test_what_the_candidate_leaves_out_shuts_the_gate() -> None:
    whole = result("t", {"base": ones(300, 600), "new": ones(300, 600)})
    cell = whole.cells["new"]
    scored = np.ones(600, dtype=bool)
    scored[-3:] = False
    scores = {"m": replace(cell.scores["m"], scored=scored)}
    found = gate([replace(whole, cells={**whole.cells, "new": replace(cell, scores=scores)})])
    assert verdicts(found) == ["unscored"]
    assert found.tasks[0].says == "3 samples that the baseline answered have no answer"


def test_equal_rows_pass_as_often_as_the_power_says() -> None:
    rng = np.random.default_rng(2)
    passed, powers = 0, []
    for _ in range(150):
        difficulty = rng.random(200)
        rows = {
            label: (difficulty + 0.1 * rng.normal(size=200)).tolist() for label in ("base", "new")
        }
        found = gate([result("t", rows)], delta=2.5).tasks[0]
        passed += found.verdict is Verdict.PASS
        powers.append(found.found.power)
    assert passed / 150 == pytest.approx(float(np.mean(powers)), abs=0.12)


def test_wrong_names() -> None:
    rows = {"base": ones(3, 5), "new": ones(3, 5)}
    with pytest.raises(InputError, match="--candidate: no row 'neww'; did you mean 'new'"):
        gate([result("t", rows)], candidate="neww")
    with pytest.raises(InputError, match="--task-delta: no task 'u'"):
        gate([result("t", rows)], deltas={"u": 1.0})


def test_junit_and_markdown() -> None:
    found = gate(
        [
            result("good", {"base": ones(300, 600), "new": ones(300, 600)}),
            result("bad", {"base": ones(300, 600), "new": ones(200, 600)}),
        ]
    )
    suites = ElementTree.fromstring(gate_junit(found))
    suite = suites[0]
    assert (suites.tag, suite.tag) == ("testsuites", "testsuite")
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("2", "1")
    good, bad = suite.findall("testcase")
    assert good.find("failure") is None
    failure = bad.find("failure")
    assert failure is not None
    assert (failure.attrib["type"], failure.attrib["message"]) == ("drop", found.tasks[1].says)
    markdown = gate_markdown(found)
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "does not pass the gate" in markdown
    assert "| **drop** |" in markdown
    assert json.loads(json.dumps(gate_fields(found), allow_nan=False))["open"] is False


@pytest.fixture
def arguments(server: Any, make_tasks: Callable[..., Any], tmp_path: Path) -> list[str]:
    files = make_tasks(num_test=60)
    server.gold = files.gold
    command = ["gate", "--server", server.address, "--tasks", f"{files.rewrite},{files.mood}"]
    return [*command, "--out", str(tmp_path / "out")]


def test_exit_codes_and_files(
    arguments: list[str], server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--junit", str(tmp_path / "gate.xml"), "--markdown", str(tmp_path / "gate.md")]
    up = ["--candidate", "gold", "--baseline", "half"]
    assert main([*arguments, *up, *files]) == 0
    assert "the gate is open" in capsys.readouterr().out
    assert ElementTree.parse(tmp_path / "gate.xml").getroot()[0].attrib["failures"] == "0"
    assert "passes the gate" in (tmp_path / "gate.md").read_text()
    before = (tmp_path / "out" / "gate.json").read_bytes()
    server.requests.clear()
    assert main(["gate", *up, "--out", str(tmp_path / "out")]) == 0
    assert server.requests == []
    assert (tmp_path / "out" / "gate.json").read_bytes() == before
    down = ["--candidate", "half", "--baseline", "gold"]
    assert main([*arguments, *down, "--json"]) == 1
    fields = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {task["verdict"] for task in fields["tasks"].values()} == {"drop"}
    assert main([*arguments, "--candidate", "glod", "--baseline", "gold"]) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--delta", "-1"], "--delta: '-1' is not a number of at least 0"),
        (["--delta", "nan"], "--delta: 'nan' is not a number of at least 0"),
        (["--alpha", "1"], "--alpha: '1' is not a number between 0 and 1"),
        (["--power", "x"], "--power: 'x' is not a number between 0 and 1"),
        (["--task-delta", "a"], "--task-delta: 'a' is not a list such as A=B,C=D"),
        (["--task-delta", "a=b"], "--task-delta: 'b' is not a number of at least 0"),
    ],
)
def test_wrong_flags(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["gate", "--candidate", "a", "--baseline", "b", *flags])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_a_file_that_cannot_be_written(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["--candidate", "gold", "--baseline", "half"]
    target = tmp_path / "missing" / "gate.xml"
    assert main([*arguments, *rows, "--junit", str(target)]) == 2
    assert "cannot be written: No such file or directory" in capsys.readouterr().err


def test_a_row_that_a_task_lacks_is_no_row_of_the_gate() -> None:
    """Texts that are weighed have no trivial answer."""
    one = result("one", {"base": ones(5), "new": ones(5), "trivial": ones(1)})
    other = result("other", {"base": ones(5), "new": ones(5)})
    with pytest.raises(InputError, match="no row 'trivial'"):
        judge([one, other], GateSettings("new", "trivial", 1.0, {}, TESTS))
    assert judge([one], GateSettings("new", "trivial", 1.0, {}, TESTS)).tasks


def test_a_baseline_without_answers_is_named() -> None:
    one = result("one", {"base": ones(5), "new": ones(5)})
    scores = one.cells["base"].scores["m"]
    scores.scored[:] = False
    (task,) = gate([one]).tasks
    assert task.verdict is Verdict.UNSCORED
    assert task.says == "the baseline has no answer to compare with"
