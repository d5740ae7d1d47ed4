"""The search space of a sweep, under the key `sweep`: configuration key -> values to try."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.trial import Trial
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from trainer.config import TrainConfig
from trainer.config.common import STRICT
from trainer.config_file import parse_config
from trainer.errors import ConfigError

KEY = "sweep"
# Keys that decide what a trial is measured by, or where it goes.
FIXED = ("name", "base", "output", "data", "loop", "device", "num_threads", "objective")

Choice = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Range:
    """Numbers from `low` to `high`, whole ones if both are whole."""

    low: int | float
    high: int | float
    log: bool = False
    """Draw evenly by magnitude: for learning rates."""
    step: int | float | None = None
    """Distance between neighbours. Null: any number between."""


Space = dict[str, Range | tuple[Choice, ...]]


def parse_space(data: Any, where: str) -> Space:
    """The space in `data`. Raises ConfigError naming the key."""
    if not isinstance(data, Mapping) or not data:
        raise ConfigError(
            f"{where}: key 'sweep' must hold keys and their values, such as "
            "`method.rank: [4, 8, 16]` or `optimiser.learning_rate: {low: 1e-4, high: 1e-2, "
            "log: true}`"
        )
    space: Space = {}
    for name, value in data.items():
        key = f"{where}: key 'sweep.{name}'"
        if str(name).partition(".")[0] in FIXED:
            raise ConfigError(f"{key}: trials would not be comparable; leave it out")
        if isinstance(value, list):
            space[name] = _choices(value, key)
        elif isinstance(value, Mapping):
            space[name] = _range(value, key)
        else:
            raise ConfigError(f"{key}: must be a list of values, or low and high")
    return space


def _choices(values: list[Any], key: str) -> tuple[Choice, ...]:
    if not values or len({json.dumps(value) for value in values}) < len(values):
        raise ConfigError(f"{key}: must be a list of different values, got {values!r:.80}")
    for value in values:
        if not isinstance(value, str | int | float | bool | None):
            raise ConfigError(f"{key}: {value!r:.60} is neither text, number nor null")
    return tuple(values)


def _range(value: Mapping[str, Any], key: str) -> Range:
    try:
        found = TypeAdapter(Range).validate_python(dict(value))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(part for part in map(str, problem["loc"]) if part not in ("int", "float"))
        message = problem["msg"]
        raise ConfigError(f"{key}.{name}: {message[0].lower() + message[1:]}") from error
    if not found.low < found.high:
        raise ConfigError(f"{key}: low {found.low:g} must be less than high {found.high:g}")
    if found.log and (found.low <= 0 or found.step is not None):
        raise ConfigError(f"{key}: log takes a low above 0, and no step")
    return found


def suggest(space: Space, trial: Trial) -> dict[str, Choice]:
    """The values of a trial, by configuration key."""
    return {name: _suggest(trial, name, spec) for name, spec in space.items()}


def _suggest(trial: Trial, name: str, spec: Range | tuple[Choice, ...]) -> Choice:
    if isinstance(spec, tuple):
        return trial.suggest_categorical(name, spec)
    if isinstance(spec.low, int) and isinstance(spec.high, int):
        step = 1 if spec.step is None else int(spec.step)
        return trial.suggest_int(name, spec.low, spec.high, step=step, log=spec.log)
    return trial.suggest_float(name, spec.low, spec.high, step=spec.step, log=spec.log)


def first_values(space: Space) -> dict[str, Choice]:
    """One value of each, to try whether the keys are known."""
    return {name: s.low if isinstance(s, Range) else s[0] for name, s in space.items()}


def config_with(
    data: Mapping[str, Any], values: Mapping[str, Choice], directory: Path, where: str
) -> TrainConfig:
    """The configuration in `data` with a trial's values, in `directory`. Raises ConfigError."""
    merged = copy.deepcopy(dict(data))
    for name, value in values.items():
        *parents, last = name.split(".")
        inner = merged
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{where}: key 'sweep.{name}': {parent!r} holds no keys")
        inner[last] = value
    merged["output"] = {"dir": str(directory), "publish": False}
    return parse_config(merged, where)
