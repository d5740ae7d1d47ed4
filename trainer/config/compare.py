"""The configuration of a comparison of methods, under the key `compare`."""

from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from trainer.config.common import STRICT, Positive, PositiveFloat

# One of each kind. Each is trained and served within seconds on a small base.
DEFAULT_METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {},
    "dora": {},
    "lora_plus": {},
    "pissa": {},
    "prompt_tuning": {},
    "p_tuning": {},
    "prefix_tuning": {},
    "ia3": {},
    "ln_tuning": {},
}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CompareConfig:
    """What is compared, and on what it is scored."""

    task: str
    """The eval suite's task that the adapters are for: a built-in name, NAME=FILE, or a task file.
    """
    forgetting: tuple[str, ...] = ()
    """Other tasks, on which a loss is forgetting; `text=FILE` for prose."""
    data_dir: Path | None = None
    """Where the eval suite finds the tasks' files. Null: beside each task's file."""
    limit: Positive = 100
    """Score the first so many samples of each task."""
    methods: dict[str, dict[str, Any]] = Field(default_factory=lambda: dict(DEFAULT_METHODS))
    """Method -> keys of the configuration that it has otherwise, such as `method: {rank: 8}`. Two
    variants of one method have names of their own, and say `method: {type: ...}`."""
    learning_rate_factor: PositiveFloat = 1.0
    """Every method's default learning rate is multiplied by this: the defaults are those of models
    of billions of parameters, small ones want more."""
    seed: int = 0
    """Of the eval suite: worked examples and resamples."""
