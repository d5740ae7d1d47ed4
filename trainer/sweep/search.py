"""The search: trials over one base in memory, kept in a journal that a rerun goes on from."""

import math
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from trainer import files, folder
from trainer.config import TrainConfig
from trainer.errors import CheckpointError, ConfigError, InterruptedRunError, TrainerError
from trainer.log import read_log
from trainer.resolve import detect_hardware, resolve
from trainer.reuse import finished, train_or_continue
from trainer.sweep.result import (
    BEST,
    ERROR,
    PLOT,
    RESULT,
    SCORE_STEP,
    TRIALS,
    folder_of,
    write_result,
)
from trainer.sweep.settings import Sweep, SweepOptions
from trainer.sweep.space import Choice, config_with, suggest
from trainer.train import Bases

JOURNAL = "study.log"
OWN = (JOURNAL, RESULT, BEST, PLOT, TRIALS)
# How many trials run to their end before one is measured by their median.
NUM_UNPRUNED = 4
_IDENTITY = "identity"


class PrunedRun(TrainerError):
    """A trial that is worse than the others were at its step."""


def search(sweep: Sweep, options: SweepOptions, say: Callable[[str], None]) -> dict[str, Any]:
    """Runs trials until there are `num_trials`; returns what `sweep.json` then holds.

    Raises CheckpointError if the folder holds another sweep or another process is at it,
    ConfigError for values that do not fit and where an input lies among what is written,
    TrainerError if no trial came to an end, and
    InterruptedRunError, after which the same call goes on.
    """
    folder.check_apart(sweep.config, sweep.directory, OWN)
    folder.make(sweep.directory)
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
    result = write_result(sweep, _done(study))
    if result["best"] is None:
        raise TrainerError(f"{directory}: no trial came to an end; {RESULT} says why")
    return result


def _study(sweep: Sweep, options: SweepOptions) -> Study:
    path = sweep.directory / JOURNAL
    backend = JournalFileBackend(str(path), JournalFileOpenLock(str(path)))
    study = optuna.create_study(
        storage=JournalStorage(backend),
        study_name=sweep.config.name,
        direction="minimize" if sweep.by_loss else "maximize",
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
    own = sweep.directory / TRIALS / folder_of(values)
    config = resolve(config_with(sweep.data, values, own, sweep.where), detect_hardware())
    sign = -1.0 if sweep.by_loss else 1.0

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
        trial.set_user_attr(ERROR, str(error))
        study.tell(trial, state=TrialState.FAIL)
        return f"failed: {error}"
    if not math.isfinite(score):
        # Optuna takes no such value, and would ask for the trial again and again.
        trial.set_user_attr(ERROR, f"{sweep.config.loop.metric} is {score}")
        study.tell(trial, state=TrialState.FAIL)
        return f"failed: {sweep.config.loop.metric} is {score}"
    trial.set_user_attr(SCORE_STEP, step)
    study.tell(trial, score)
    return f"{sweep.config.loop.metric} {score:.4f} at step {step}"


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
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or ERROR in trial.user_attrs
    ]


def _short(value: Choice) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
