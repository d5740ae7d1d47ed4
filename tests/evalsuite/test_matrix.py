"""The adapter x task matrix: its numbers by hand, and its verb from flags to JSON."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalsuite.__main__ import main
from evalsuite.errors import InputError
from evalsuite.metrics import MeanMetric
from evalsuite.reports.matrix import Finding, Matrix, MatrixSettings, build_matrix
from evalsuite.reports.matrix_fields import matrix_fields
from evalsuite.results import Cell, TaskResult, Totals
from evalsuite.stats import BootstrapConfig, Correction, TestConfig, compare, holm, mcnemar
from evalsuite.task import Task, TaskSpec
from evalsuite.types import Mode, Row, RowKind, Sample, Scores
from understudy.prompt import PromptTemplate

TESTS = TestConfig(BootstrapConfig(num_resamples=300), num_permutations=400)
MODEL = {"base_fingerprint": "f" * 64, "quantization": "nf4"}
BASE = Row("base", RowKind.BASE)


def adapter(label: str) -> Row:
    return Row(label, RowKind.ADAPTER, label, "v")


def result(
    name: str, values: Mapping[str, list[float]], maximum: float = 1.0, less: bool = False
) -> TaskResult:
    """A task with these values per sample, by row label."""
    num = len(next(iter(values.values())))
    metric = MeanMetric(
        "m", f"m|{name}", Mode.GENERATE, lambda *_: 0.0, 0.0 if less else maximum, not less
    )
    if maximum != 1.0:
        metric = replace(metric, name="m100")
    samples = tuple(Sample(str(i), f"in {i}", ("ref",)) for i in range(num))
    task = Task(
        TaskSpec(name, "d.jsonl", "{{ input }}", ("m",)),
        samples,
        (),
        (metric,),
        PromptTemplate("{{ input }}"),
        "a" * 64,
        None,
    )
    cells = {}
    for label, row_values in values.items():
        statistics = np.stack([np.array(row_values), np.ones(num)], axis=1)
        scores = Scores(metric, statistics, np.ones(num, dtype=bool))
        row = BASE if label == "base" else adapter(label)
        totals = Totals(num, 0, None, 0.0, 0.0, 0.0)
        cells[label] = Cell(row, (), {metric.name: scores}, totals)
    return TaskResult(task, None, cells)


def build(
    results: list[TaskResult],
    own: dict[str, str] | None = None,
    sequence: tuple[str, ...] = (),
    correction: Correction = Correction.HOLM,
) -> Matrix:
    settings = MatrixSettings(TESTS, correction, own or {}, sequence)
    return build_matrix(results, {"": MODEL}, settings, 0)


def ones(num: int, of: int = 40) -> list[float]:
    return [1.0] * num + [0.0] * (of - num)


def test_gains_losses_and_summary() -> None:
    matrix = build(
        [
            result("alpha", {"base": ones(10), "a": ones(35), "b": ones(10)}),
            result("beta", {"base": ones(30), "a": ones(5), "b": ones(40)}),
            result("gamma", {"base": ones(20), "a": ones(18), "b": ones(20)}, maximum=1.0),
        ],
        own={"a": "alpha", "b": "beta"},
    )
    found = {key: cell.finding for key, cell in matrix.cells.items()}
    assert found == {
        ("a", "alpha"): Finding.GAIN,
        ("a", "beta"): Finding.LOSS,
        ("a", "gamma"): Finding.UNCLEAR,
        ("b", "alpha"): Finding.UNCLEAR,
        ("b", "beta"): Finding.GAIN,
        ("b", "gamma"): Finding.UNCLEAR,
    }
    a = matrix.summaries["a"]
    assert a.own_gain == pytest.approx(100 * 25 / 40)
    assert a.mean_loss == pytest.approx(100 * (25 / 40 + 2 / 40) / 2)
    assert (a.worst_loss, a.worst_task) == (pytest.approx(62.5), "beta")
    assert a.num_losses == 1
    # Holm over the six cells, by hand.
    p = [mcnemar(25, 0), 1.0, mcnemar(0, 25), mcnemar(10, 0), mcnemar(0, 2), 1.0]
    keys = [(row, task) for task in ("alpha", "beta", "gamma") for row in "ab"]
    expected = dict(zip(keys, holm(p), strict=True))
    for key, cell in matrix.cells.items():
        assert cell.p_adjusted == pytest.approx(expected[key])
        assert cell.comparison.mde > 0


def test_scales_become_points_and_errors_turn_round() -> None:
    matrix = build(
        [
            result("bleu", {"base": [40.0, 50.0] * 20, "a": [42.0, 48.0] * 20}, maximum=100.0),
            result("text", {"base": [1.0, 1.1] * 20, "a": [1.4, 1.3] * 20}, less=True),
        ],
        own={"a": "bleu"},
    )
    assert matrix.summaries["a"].own_gain == pytest.approx(0.0)
    cell = matrix.cells["a", "text"]
    assert cell.comparison.diff == pytest.approx(-0.3)
    assert cell.comparison.ci_low <= -0.3 <= cell.comparison.ci_high
    assert cell.finding is Finding.LOSS
    # Bits per byte have no best value to be a share of.
    assert math.isnan(matrix.summaries["a"].mean_loss)
    assert matrix.summaries["a"].worst_task is None


def test_backward_transfer_and_forgetting_of_a_sequence() -> None:
    values = {
        # Trained on t1, then t2, then t3; R[i][j] in fortieths.
        "t1": {"base": ones(10), "s1": ones(30), "s2": ones(36), "s3": ones(20)},
        "t2": {"base": ones(4), "s1": ones(6), "s2": ones(24), "s3": ones(22)},
        "t3": {"base": ones(8), "s1": ones(8), "s2": ones(8), "s3": ones(32)},
    }
    results = [result(task, rows) for task, rows in values.items()]
    own = {"s1": "t1", "s2": "t2", "s3": "t3"}
    found = build(results, own, ("s1", "s2", "s3")).sequence
    assert found is not None
    assert found.backward_transfer == pytest.approx(100 * ((20 - 30) + (22 - 24)) / 40 / 2)
    assert found.forgetting == pytest.approx(100 * ((36 - 20) + (24 - 22)) / 40 / 2)
    errors = [
        compare(r.cells["s3"].scores["m"], r.cells[row].scores["m"], TESTS).error
        for r, row in zip(results, ("s1", "s2"), strict=False)
    ]
    assert found.standard_error == pytest.approx(100 * math.hypot(*errors) / 2)


def test_own_tasks_are_found_by_name() -> None:
    rows = {"base": ones(3, 5), "my-task": ones(4, 5), "other": ones(2, 5)}
    matrix = build([result("my_task", rows)])
    assert matrix.summaries["my-task"].own_task == "my_task"
    assert matrix.summaries["other"].own_task is None


def test_unscored_rows_cost_no_test() -> None:
    whole = result("alpha", {"base": ones(10), "a": ones(35), "b": ones(10)})
    cell = whole.cells["b"]
    empty = replace(cell.scores["m"], scored=np.zeros(40, dtype=bool))
    cells = {**whole.cells, "b": replace(cell, scores={"m": empty})}
    matrix = build([replace(whole, cells=cells)])
    assert matrix.cells["b", "alpha"].finding is Finding.UNSCORED
    assert matrix.cells["a", "alpha"].p_adjusted == pytest.approx(mcnemar(25, 0))
    fields = matrix_fields(matrix)
    assert fields["settings"]["num_tests"] == 1
    assert fields["rows"]["b"]["cells"]["alpha"]["gain"] is None
    json.dumps(fields, allow_nan=False)


def test_false_findings_over_a_matrix_are_as_rare_as_stated() -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(60):
        draws = [
            {label: (rng.random(60) < 0.5).astype(float).tolist() for label in ("base", "a", "b")}
            for _ in range(4)
        ]
        matrix = build([result(f"t{i}", rows) for i, rows in enumerate(draws)])
        found += any(cell.finding is not Finding.UNCLEAR for cell in matrix.cells.values())
    assert found <= 7


@pytest.mark.parametrize(
    ("own", "sequence", "message"),
    [
        ({"x": "alpha"}, (), "--own: no row 'x'; valid: a, b"),
        ({"a": "alpa"}, (), "--own: no task 'alpa'; did you mean 'alpha'?"),
        ({}, ("c", "a"), "--sequence: no row 'c'"),
        ({}, ("a", "b"), "--sequence: which task 'a' is for is not known; give --own"),
        ({"a": "alpha"}, ("a",), "--sequence: needs at least two rows"),
    ],
)
def test_wrong_names(own: dict[str, str], sequence: tuple[str, ...], message: str) -> None:
    rows = {"base": ones(3, 5), "a": ones(4, 5), "b": ones(2, 5)}
    with pytest.raises(InputError) as error:
        build([result("alpha", rows)], own, sequence)
    assert str(error.value).startswith(message)


@pytest.fixture
def arguments(server: Any, make_tasks: Callable[..., Any], tmp_path: Path) -> list[str]:
    files = make_tasks()
    server.gold = files.gold
    command = ["matrix", "--server", server.address, "--adapters", "gold,half"]
    command += ["--tasks", f"{files.rewrite},{files.mood}", "--out", str(tmp_path / "out")]
    return [*command, "--own", "gold=rewrite,half=mood"]


def test_verb(
    arguments: list[str], server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for text in ("beside base", "mde", "corrected over 4 cells (holm)", "worst loss", "+1.000*"):
        assert text in shown.replace("\n", " ").replace("  ", " ")
    path = tmp_path / "out" / "matrix.json"
    before = path.read_bytes()
    fields = json.loads(before)
    assert list(fields["rows"]) == ["gold", "half"]
    assert fields["rows"]["gold"]["cells"]["rewrite"]["finding"] == "gain"
    assert fields["rows"]["gold"]["own_gain"] == 100.0
    assert fields["tasks"]["mood"]["base"] == 0.0
    server.requests.clear()
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == fields
    assert server.requests == []
    # Read back without a server.
    path.unlink()
    again = ["matrix", "--out", str(tmp_path / "out"), "--own", "gold=rewrite,half=mood"]
    assert main(again) == 0
    assert path.read_bytes() == before


def test_a_row_may_be_another_base(
    arguments: list[str],
    server: Any,
    start_scripted: Callable[[], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = start_scripted()
    other.gold = server.gold
    other.fingerprint = "e" * 64
    rows = f"gold,full={other.address}/base,theirs={other.address}/half"
    command = [rows if word == "gold,half" else word for word in arguments[:-2]]
    assert main([*command, "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    assert list(fields["rows"]) == ["full", "gold", "theirs"]
    assert fields["rows"]["full"]["cells"]["mood"]["gain"] == 0.0
    assert "|base:eeee" in fields["rows"]["theirs"]["cells"]["mood"]["signature"]


def test_flags_that_need_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path)]
    assert main(["matrix", "--adapters", "a", *out]) == 2
    assert "--adapters: needs --server" in capsys.readouterr().err
    assert main(["matrix", "--text", "x.txt", *out]) == 2
    assert "--text: needs --server" in capsys.readouterr().err
    assert main(["matrix", "--server", "localhost:1", "--adapters", "a", *out]) == 2
    assert "--tasks: needed with --server" in capsys.readouterr().err
    assert main(["matrix", *out]) == 2
    assert "no run to read" in capsys.readouterr().err
