"""The configuration of each objective, under the key `objective`."""

from typing import Literal

from pydantic.dataclasses import dataclass

from trainer.config.common import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SupervisedConfig:
    """Cross-entropy of the completion's tokens."""

    type: Literal["supervised"] = "supervised"
    """The objective's name."""


Objective = SupervisedConfig
