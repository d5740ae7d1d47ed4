"""The configuration of feature extraction."""

from typing import Literal

from pydantic.dataclasses import dataclass

from trainer.config.common import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HeadConfig:
    """No adapter: the head of a classifier alone, over the base's own features."""

    type: Literal["head"]
    """The method's name."""
