"""A sweep as its file says: the space, and what is the same for all trials."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import TrainConfig
from trainer.config_file import apply_override, read_yaml
from trainer.errors import ConfigError
from trainer.resolve import detect_hardware, resolve
from trainer.sweep.space import KEY, Space, config_with, first_values, parse_space
from trainer.writing import digest


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

    @property
    def by_loss(self) -> bool:
        """Whether trials are measured by the validation loss, of which less is better."""
        return self.config.loop.metric == "loss"

    def identity(self) -> str:
        """Hash of all that makes trials comparable: the configuration but where it goes."""
        content = {key: value for key, value in self.data.items() if key != "output"}
        return digest(content)


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
