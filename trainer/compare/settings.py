"""A comparison as its file says: what is shared, and one training configuration per method."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from trainer.config import TrainConfig
from trainer.config.compare import CompareConfig
from trainer.config_file import apply_override, parse_config, read_yaml
from trainer.errors import ConfigError
from trainer.methods import METHODS
from trainer.resolve import detect_hardware, resolve
from trainer.run_file import merge
from understudy.artifact import ArtifactError, check_name

KEY = "compare"
# Keys that a method has no say in.
SAME_FOR_ALL = ("name", "output", "base")
# Within the comparison's folder.
RUNS, STORE, EVALUATION = "runs", "store", "evaluation"


@dataclass(frozen=True)
class Entry:
    """One method of a comparison."""

    label: str
    config: TrainConfig
    """Resolved."""

    @property
    def adapter(self) -> str:
        """Its adapter's name."""
        return self.config.name

    @property
    def trains_base(self) -> bool:
        """Whether it makes a base instead of an adapter."""
        return METHODS[self.config.method.type].trains_base


@dataclass(frozen=True)
class Comparison:
    """What is to be done."""

    name: str
    directory: Path
    settings: CompareConfig
    entries: tuple[Entry, ...]


def load_comparison(
    path: Path, overrides: Sequence[str] = (), methods: Sequence[str] = ()
) -> Comparison:
    """The comparison in a YAML file; `methods` in place of the file's. Raises ConfigError."""
    data = read_yaml(path)
    for override in overrides:
        apply_override(data, override)
    where = str(path)
    if KEY not in data:
        raise ConfigError(
            f"{where}: key 'compare' is missing: name the task to score on, such as "
            "`compare: {task: support_summary}`"
        )
    settings = _settings(data.pop(KEY), where)
    if "learning_rate" in (data.get("optimiser") or {}):
        raise ConfigError(
            f"{where}: key 'optimiser.learning_rate': one rate for all would compare rates, not "
            "methods; leave it out, and set compare.learning_rate_factor or "
            "compare.methods.METHOD.optimiser.learning_rate"
        )
    if methods:
        chosen = {label: settings.methods.get(label, {}) for label in dict.fromkeys(methods)}
        settings = dataclasses.replace(settings, methods=chosen)
    output = data.get("output")
    if not isinstance(output, dict) or not isinstance(output.get("dir"), str):
        raise ConfigError(f"{where}: key 'output.dir' is missing: the comparison's folder")
    directory, name = Path(output["dir"]), str(data.get("name", ""))
    if len(settings.methods) < 1:
        raise ConfigError(f"{where}: key 'compare.methods': name at least one method")
    entries = tuple(
        _entry(data, name, directory, settings, label, own, where)
        for label, own in settings.methods.items()
    )
    return Comparison(name, directory, settings, entries)


def _settings(data: Any, where: str) -> CompareConfig:
    try:
        return TypeAdapter(CompareConfig).validate_python(data)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        key = ".".join([KEY, *map(str, problem["loc"])])
        if problem["type"] == "unexpected_keyword_argument":
            known = [field.name for field in dataclasses.fields(CompareConfig)]
            close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
            raise ConfigError(f"{where}: key {key!r} is not known; {hint}") from error
        message = problem["msg"]
        raise ConfigError(f"{where}: key {key!r}: {message[0].lower() + message[1:]}") from error


def _entry(
    data: Mapping[str, Any],
    name: str,
    directory: Path,
    settings: CompareConfig,
    label: str,
    own: Mapping[str, Any],
    where: str,
) -> Entry:
    key = f"{where}: compare.methods.{label}"
    method = own.get("method", {})
    if not isinstance(method, dict):
        raise ConfigError(f"{key}.method: must hold keys and values")
    kind = method.get("type", label)
    if kind not in METHODS:
        close = difflib.get_close_matches(str(kind), METHODS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(METHODS))}"
        raise ConfigError(f"{key}: no method {kind!r}; {hint}")
    taken = [k for k in SAME_FOR_ALL if k in own]
    if taken:
        raise ConfigError(f"{key}.{taken[0]}: is the same for all; set it at the top")
    adapter = f"{name}-{label}".lower().replace("_", "-")
    output = {"dir": str(directory / RUNS / label), "store": str(directory / STORE)}
    fixed: dict[str, Any] = {"name": adapter, "output": output}
    if METHODS[kind].trains_base:
        # A base of its own: no quantized weights to train, no store of adapters to go to.
        fixed |= {"quantization": "none", "dtype": "float32"}
        fixed["output"] = {**output, "store": None}
    merged = merge(merge(data, {**own, "method": {**method, "type": kind}}), {})
    merged.update(fixed)
    config = parse_config(merged, key)
    try:
        check_name(adapter)
        resolved = resolve(config, detect_hardware())
    except (ConfigError, ArtifactError) as error:
        raise ConfigError(f"{key}: {error}") from error
    if config.optimiser.learning_rate is None:
        assert resolved.optimiser.learning_rate is not None
        rate = resolved.optimiser.learning_rate * settings.learning_rate_factor
        resolved = dataclasses.replace(
            resolved, optimiser=dataclasses.replace(resolved.optimiser, learning_rate=rate)
        )
    return Entry(label, resolved)
