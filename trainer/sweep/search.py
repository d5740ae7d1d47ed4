"""The search: trials over one base in memory, kept in a journal that a rerun goes on from."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from trainer import files, folder
from trainer.config import TrainConfig
from trainer.config_file import apply_override, read_yaml
from trainer.errors import CheckpointError, ConfigError, InterruptedRunError, TrainerError
from trainer.log import read_log
from trainer.resolve import detect_hardware, resolve
from trainer.reuse import finished, train_or_continue
from trainer.sweep.plot import plot
from trainer.sweep.space import KEY, Choice, Space, config_with, first_values, parse_space, suggest
from trainer.train import Bases
from trainer.writing import digest, write_json

JOURNAL, RESULT, BEST, PLOT, TRIALS = "study.log", "sweep.json", "best.yaml", "sweep.png", "trials"
OWN = (JOURNAL, RESULT, BEST, PLOT, TRIALS)
# How many trials run to their end before one is measured by their median.
NUM_UNPRUNED = 4
_IDENTITY, _ERROR, _SCORE_STEP = "identity", "error", "best_step"


class PrunedRun(TrainerError):
    """A trial that is worse than the others were at its step."""


@dataclass(frozen=True)
class SweepOptions:
    """How to search."""

    num_trials: int = 20
    """Finished trials to come to, earlier runs counted in."""
    prune: bool = True
    """End trials whose validations are worse than the median of the others at that step."""
    seed: int = 0
    overwrite: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Sweep:
    """What is searched."""

    data: Mapping[str, Any]
    """The configuration without the space."""
    space: Space
    config: TrainConfig
    """It with the first value of each key."""
    where: str

    @property
    def directory(self) -> Path:
        """Where everything goes."""
        return Path(self.data["output"]["dir"])

    def identity(self) -> str:
        """Hash of all that makes trials comparable: the configuration but where it goes."""
        content = {key: value for key, value in self.data.items() if key != "output"}
        return digest(content)


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


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """The sweep in a YAML file. Raises ConfigError."""
    data = read_yaml(path)
    for override in overrides:
        apply_override(data, override)
    where = str(path)
    space = parse_space(data.pop(KEY, None), where)
    output = data.get("output")
    if not isinstance(output, dict) or not isinstance(output.get("dir"), str):
        raise ConfigError(f"{where}: key 'output.dir' is missing: the sweep's folder")
    config = config_with(data, first_values(space), Path(output["dir"]), where)
    if config.data.validation == 0:
        raise ConfigError(f"{where}: key 'data.validation': 0 leaves nothing to judge a trial by")
    resolve(config, detect_hardware())
    return Sweep(data, space, config, where)


def search(sweep: Sweep, options: SweepOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Runs trials until there are `num_trials`; returns what `sweep.json` then holds.

    Raises CheckpointError if the folder holds another sweep or another process is at it,
    ConfigError for values that do not fit and where an input lies among what is written,
    TrainerError if no trial came to an end, and
    InterruptedRunError, after which the same call goes on.
    """
    folder.check_apart(sweep.config, sweep.directory, OWN)
    sweep.directory.mkdir(parents=True, exist_ok=True)
    # Another search would take this one's running trials for interrupted.
    with folder.alone_in(sweep.directory):
        return _search(sweep, options, say)


def _search(sweep: Sweep, options: SweepOptions, say: Callable[[str], None]) -> dict[str, Any]:
    directory = sweep.directory
    if options.overwrite:
        (directory / JOURNAL).unlink(missing_ok=True)
        shutil.rmtree(directory / TRIALS, ignore_errors=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _study(sweep, options)
    _requeue_interrupted(study)
    kept: Bases = {}
    while (num_done := len(_done(study))) < options.num_trials:
        trial = study.ask()
        values = suggest(sweep.space, trial)
        shown = ", ".join(f"{name} {_short(value)}" for name, value in values.items())
        say(f"trial {num_done + 1}/{options.num_trials}: {shown}")
        say(f"  {_run(study, trial, values, sweep, options, kept)}")
    result = _result(sweep, study)
    if result["best"] is None:
        raise TrainerError(f"{directory}: no trial came to an end; {RESULT} says why")
    return result


def _study(sweep: Sweep, options: SweepOptions) -> Study:
    path = sweep.directory / JOURNAL
    backend = JournalFileBackend(str(path), JournalFileOpenLock(str(path)))
    study = optuna.create_study(
        storage=JournalStorage(backend),
        study_name=sweep.config.name,
        direction="minimize" if _by_loss(sweep) else "maximize",
        sampler=optuna.samplers.TPESampler(seed=options.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=NUM_UNPRUNED)
        if options.prune
        else optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    kept = study.user_attrs.get(_IDENTITY)
    if kept is None:
        study.set_user_attr(_IDENTITY, sweep.identity())
    elif kept != sweep.identity():
        raise CheckpointError(
            f"{path}: holds trials of another configuration; replace them with --overwrite, or set "
            "another output.dir"
        )
    return study


def _requeue_interrupted(study: Study) -> None:
    """What a killed process was at comes first."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)


def _run(
    study: Study,
    trial: Trial,
    values: Mapping[str, Choice],
    sweep: Sweep,
    options: SweepOptions,
    kept: Bases,
) -> str:
    """Runs one trial and tells the study; returns a line about it."""
    own = sweep.directory / TRIALS / _folder(values)
    config = resolve(config_with(sweep.data, values, own, sweep.where), detect_hardware())
    sign = -1.0 if _by_loss(sweep) else 1.0

    def watch(step: int, score: float) -> None:
        # Before the first step all are alike.
        if not step:
            return
        trial.report(sign * score, step)
        if trial.should_prune():
            raise PrunedRun(f"pruned after step {step}")

    try:
        if finished(config) is None:
            train_or_continue(config, kept, quiet=True, watch=watch)
        step, score = _best(config)
    except PrunedRun as error:
        study.tell(trial, state=TrialState.PRUNED)
        return str(error)
    except InterruptedRunError:
        study.tell(trial, state=TrialState.FAIL)
        study.enqueue_trial(dict(values))
        raise
    except TrainerError as error:
        if error.exit_code == ConfigError.exit_code:
            study.tell(trial, state=TrialState.FAIL)
            raise
        trial.set_user_attr(_ERROR, str(error))
        study.tell(trial, state=TrialState.FAIL)
        return f"failed: {error}"
    if not math.isfinite(score):
        # Optuna takes no such value, and would ask for the trial again and again.
        trial.set_user_attr(_ERROR, f"{sweep.config.loop.metric} is {score}")
        study.tell(trial, state=TrialState.FAIL)
        return f"failed: {sweep.config.loop.metric} is {score}"
    trial.set_user_attr(_SCORE_STEP, step)
    study.tell(trial, score)
    return f"{sweep.config.loop.metric} {score:.4f} at step {step}"


def _folder(values: Mapping[str, Choice]) -> str:
    """A trial's folder: equal values share one, so that nothing is trained twice."""
    return digest(values)[:12]


def _by_loss(sweep: Sweep) -> bool:
    return sweep.config.loop.metric == "loss"


def _best(config: TrainConfig) -> tuple[int, float]:
    """Step and value of the best validation of a finished run."""
    metric = config.loop.metric
    records = read_log(config.output.dir / files.METRICS)
    found = [(r["step"], r[metric]) for r in records if r["event"] == "validation"]
    sign = 1 if metric == "loss" else -1
    return min(found, key=lambda pair: (sign * pair[1], pair[0]))


def _done(study: Study) -> list[FrozenTrial]:
    """Trials that need not be run again."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or _ERROR in trial.user_attrs
    ]


def _result(sweep: Sweep, study: Study) -> dict[str, Any]:
    """Writes table, plot and best configuration; returns what the table holds."""
    directory, metric = sweep.directory, sweep.config.loop.metric
    rows = [_row(trial, sweep) for trial in _done(study)]
    complete = [row for row in rows if row.state == "complete"]
    sign = 1 if _by_loss(sweep) else -1
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
    step: int | None = trial.user_attrs.get(_SCORE_STEP, max(reported, default=None))
    last = None if step is None else reported.get(step)
    return TrialRow(
        trial.number,
        states.get(trial.state, "failed"),
        dict(trial.params),
        trial.value if trial.value is not None else last,
        step,
        f"{TRIALS}/{_folder(trial.params)}",
        trial.user_attrs.get(_ERROR),
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


def _short(value: Choice) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
