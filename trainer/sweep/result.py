"""What a sweep leaves: table, plot and best configuration."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState

from trainer.sweep.plot import plot
from trainer.sweep.settings import Sweep
from trainer.sweep.space import Choice
from trainer.writing import digest, write_json

RESULT, BEST, PLOT, TRIALS = "sweep.json", "best.yaml", "sweep.png", "trials"
# Of a trial, in the journal.
ERROR, SCORE_STEP = "error", "best_step"


@dataclass(frozen=True)
class TrialRow:
    """One trial, as the table shows it."""

    number: int
    state: str
    """`complete`, `pruned` or `failed`."""
    values: dict[str, Choice]
    score: float | None
    """The objective: validation loss, or `loop.metric`."""
    step: int | None
    """Where it was reached."""
    directory: str
    error: str | None = None


def write_result(sweep: Sweep, trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    """Writes table, plot and best configuration; returns what the table holds."""
    directory, metric = sweep.directory, sweep.config.loop.metric
    rows = [_row(trial, sweep) for trial in trials]
    complete = [row for row in rows if row.state == "complete"]
    sign = 1 if sweep.by_loss else -1
    best = min(complete, key=lambda row: sign * (row.score or 0.0), default=None)
    result = {
        "name": sweep.config.name,
        "metric": metric,
        "best": None if best is None else dataclasses.asdict(best),
        "trials": [dataclasses.asdict(row) for row in rows],
    }
    write_json(directory / RESULT, result)
    if best is not None:
        plot(rows, best, sweep.space, metric, directory / PLOT)
        _write_best(sweep, best)
    return result


def _row(trial: FrozenTrial, sweep: Sweep) -> TrialRow:
    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}
    reported = trial.intermediate_values
    step: int | None = trial.user_attrs.get(SCORE_STEP, max(reported, default=None))
    last = None if step is None else reported.get(step)
    return TrialRow(
        trial.number,
        states.get(trial.state, "failed"),
        dict(trial.params),
        trial.value if trial.value is not None else last,
        step,
        f"{TRIALS}/{folder_of(trial.params)}",
        trial.user_attrs.get(ERROR),
    )


def _write_best(sweep: Sweep, best: TrialRow) -> None:
    """The configuration with the best values, to train with."""
    data: dict[str, Any] = json.loads(json.dumps(sweep.data, default=str))
    for name, value in best.values.items():
        *parents, last = name.split(".")
        inner = data
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    data["output"] = {**data["output"], "dir": str(sweep.directory / "best")}
    head = f"# {sweep.config.loop.metric} {best.score:.6g} in trial {best.number} of {RESULT}\n"
    text = head + yaml.safe_dump(data, sort_keys=False)
    (sweep.directory / BEST).write_text(text, encoding="utf-8")


def folder_of(values: Mapping[str, Choice]) -> str:
    """A trial's folder: equal values share one, so that nothing is trained twice."""
    return digest(values)[:12]
