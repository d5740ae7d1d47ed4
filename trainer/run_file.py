"""A run: one configuration, or several that train together, as a file says or a folder remembers.

A file with a list under `jobs` holds several: what stands beside the list is shared, each entry
overrides it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import TrainConfig
from trainer.config_file import apply_override, json_schema, parse_config, read_yaml
from trainer.errors import ConfigError

JOBS = "jobs"
# One base in memory, on one device, computing in one type.
SHARED_KEYS = ("base", "quantization", "dtype", "device", "num_threads")


@dataclass(frozen=True)
class Run:
    """What one command trains, over one base."""

    directory: Path
    """Folder of the run; of its only job too, if there is one."""
    configs: tuple[TrainConfig, ...]

    @classmethod
    def of(cls, config: TrainConfig) -> "Run":
        """A run of one job."""
        return cls(config.output.dir, (config,))

    @property
    def directories(self) -> tuple[Path, ...]:
        """Every folder that it writes into, each once."""
        return tuple(dict.fromkeys((self.directory, *(c.output.dir for c in self.configs))))


def load_run(path: Path, overrides: Sequence[str] = ()) -> Run:
    """The run in a YAML file, with `key.sub=value` overrides applied over it.

    `jobs.0.key=value` overrides a key of the first job. Raises ConfigError naming the file, the
    key, the value and the remedy.
    """
    data = read_yaml(path)
    for override in overrides:
        apply_override(data, override)
    return parse_run(data, str(path))


def parse_run(data: Mapping[str, Any], where: str) -> Run:
    """The run in `data`. Raises ConfigError beginning with `where`."""
    if JOBS not in data:
        return Run.of(parse_config(data, where))
    jobs = data[JOBS]
    if not isinstance(jobs, list) or not jobs:
        raise ConfigError(f"{where}: key 'jobs': must be a list of jobs, each with its own keys")
    output = data.get("output")
    if not isinstance(output, dict) or not isinstance(output.get("dir"), str):
        raise ConfigError(f"{where}: key 'output.dir' is missing: the folder of the whole run")
    directory = Path(output["dir"])
    configs = tuple(_job(data, jobs, index, directory, where) for index in range(len(jobs)))
    _check_distinct(configs, directory, where)
    return Run(directory, configs)


def _job(
    data: Mapping[str, Any], jobs: Sequence[Any], index: int, directory: Path, where: str
) -> TrainConfig:
    """The configuration of one job: the shared keys under its own."""
    key, own = f"jobs.{index}", jobs[index]
    if not isinstance(own, dict):
        raise ConfigError(f"{where}: key '{key}': must hold keys and values, got {own!r:.80}")
    if wrong := [name for name in (*SHARED_KEYS, JOBS) if name in own]:
        raise ConfigError(f"{where}: key '{key}.{wrong[0]}': all jobs share it; set it at the top")
    merged = merge({k: v for k, v in data.items() if k != JOBS}, own)
    if "name" not in own and isinstance(data.get("name"), str):
        merged["name"] = f"{data['name']}-{index + 1}"
    own_output = own.get("output")
    if not (isinstance(own_output, dict) and "dir" in own_output):
        merged["output"] = {**merged["output"], "dir": str(directory / str(merged.get("name")))}
    return parse_config(merged, f"{where}: {key}")


def merge(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`shared` with the keys of `own` over it, level by level.

    A `method` of another type takes no keys from the shared one.
    """
    merged = dict(shared)
    for key, value in own.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            other = key == "method" and value.get("type", below.get("type")) != below.get("type")
            merged[key] = value if other else merge(below, value)
        else:
            merged[key] = value
    return merged


def _check_distinct(configs: Sequence[TrainConfig], directory: Path, where: str) -> None:
    names: dict[str, int] = {}
    folders = {directory.resolve(): "the run's own"}
    for index, config in enumerate(configs):
        if config.name in names:
            raise ConfigError(
                f"{where}: key 'jobs.{index}.name': {config.name!r} is the name of "
                f"jobs.{names[config.name]} too; each job has its own"
            )
        names[config.name] = index
        folder = config.output.dir.resolve()
        if folder in folders:
            raise ConfigError(
                f"{where}: key 'jobs.{index}.output.dir': {str(config.output.dir)!r} is "
                f"{folders[folder]} folder; leave it out, or give each job its own"
            )
        folders[folder] = f"jobs.{index}'s"


def run_schema() -> dict[str, Any]:
    """JSON schema of a file: that of the configuration, with `jobs`.

    Beside `jobs` any key may be left to the jobs, and in a job to what is shared.
    """
    schema = json_schema()
    parts: dict[str, Any] = schema["$defs"]
    partial = {f"{name}Part": without_required(part) for name, part in parts.items()}
    job = without_required({k: v for k, v in schema.items() if k not in ("$defs", "title")})
    job["properties"] = {k: v for k, v in job["properties"].items() if k not in SHARED_KEYS}
    jobs = {
        "type": "array",
        "items": job,
        "minItems": 1,
        "description": "Jobs that train together over one base; each overrides what stands above.",
    }
    whole = schema["properties"]
    shared = without_required(whole)
    strict = {key: value for key, value in whole.items() if value != shared[key]}
    alone = {"required": schema.pop("required"), "properties": strict}
    together = {"required": ["base", "output", JOBS], "properties": {"output": whole["output"]}}
    return {
        **schema,
        "$defs": {**parts, **partial},
        "properties": {**shared, JOBS: jobs},
        "anyOf": [alone, together],
    }


def without_required(value: Any) -> Any:
    """A schema that demands no key, also not in the parts that it refers to."""
    if isinstance(value, list):
        return [without_required(inner) for inner in value]
    if not isinstance(value, dict):
        return f"{value}Part" if isinstance(value, str) and value.startswith("#/$defs/") else value
    # `required` as a property of that name would be a mapping. Without it, more than one member
    # of a union may fit.
    return {
        "anyOf" if key == "oneOf" else key: without_required(inner)
        for key, inner in value.items()
        if not (key == "required" and isinstance(inner, list)) and key != "discriminator"
    }
