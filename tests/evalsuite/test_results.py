"""Which baseline a gain is over, where not every row has an answer to every sample."""

from dataclasses import replace

import numpy as np

from evalsuite.metrics import MetricOptions, build_metrics
from evalsuite.results import Cell, Totals
from evalsuite.types import Mode, Row, RowKind, Sample, Scores
from tests.evalsuite.test_matrix import result

(MEAN,) = build_metrics(["exact_match"], Mode.GENERATE, MetricOptions(), [Sample("1", "x", ("y",))])


def cell(label: str, values: list[float | None]) -> Cell:
    """A row with these values per sample; None: no answer."""
    scored = np.array([value is not None for value in values])
    statistics = np.array([[value or 0.0, 1.0] for value in values]) * scored[:, None]
    kind = RowKind.ADAPTER if label == "mine" else RowKind.BASE
    totals = Totals(int(scored.sum()), int((~scored).sum()), None, 0.0, 0.0, 0.0)
    return Cell(Row(label, kind), (), {MEAN.name: Scores(MEAN, statistics, scored)}, totals)


def best(*cells: Cell) -> str | None:
    results = replace(result("t", {"base": [1.0]}), cells={c.row.label: c for c in cells})
    found = results.best_baseline(results.cells["mine"], MEAN.name)
    return None if found is None else found.row.label


MINE = cell("mine", [1, 1, 1, 1])


def test_baselines_meet_on_the_samples_that_all_have_answered() -> None:
    """`shots` did not fit for the two hard ones, and is worse on the two that it has."""
    base, shots = cell("base", [1, 1, 0, 0]), cell("shots", [1, 0, None, None])
    assert shots.scores[MEAN.name].value == base.scores[MEAN.name].value
    assert best(shots, base, MINE) == "base"
    assert best(cell("base", [1, 0, 0, 0]), cell("shots", [1, 1, None, None]), MINE) == "shots"


def test_samples_without_an_answer_of_the_candidates_do_not_count() -> None:
    base, shots = cell("base", [1, 0, 0, 0]), cell("shots", [0, 1, 1, 1])
    assert best(base, shots, MINE) == "shots"
    assert best(base, shots, cell("mine", [1, None, None, None])) == "base"


def test_a_baseline_that_shares_no_sample_is_no_rival() -> None:
    base, shots = cell("base", [None, 0, 0, 0]), cell("shots", [1, None, None, None])
    assert best(shots, base, MINE) == "base"
    assert best(shots, MINE) == "shots"
    assert best(cell("base", [None] * 4), MINE) is None
    assert best(MINE) is None
    assert best(shots, cell("mine", [None, 1, 1, 1])) is None
