"""The configuration of each method, under the key `method`."""

from typing import Annotated

from pydantic import Field

from trainer.config.methods.head import HeadConfig
from trainer.config.methods.lora import LoraConfig
from trainer.config.methods.selective import (
    BitFitConfig,
    FullConfig,
    IA3Config,
    LayersConfig,
    LNTuningConfig,
    TrainableTokensConfig,
)
from trainer.config.methods.soft_prompts import (
    PrefixTuningConfig,
    PromptTuningConfig,
    PTuningConfig,
)

__all__ = [
    "BitFitConfig",
    "FullConfig",
    "HeadConfig",
    "IA3Config",
    "LNTuningConfig",
    "LayersConfig",
    "LoraConfig",
    "Method",
    "PTuningConfig",
    "PrefixTuningConfig",
    "PromptTuningConfig",
    "TrainableTokensConfig",
]

Method = Annotated[
    LoraConfig
    | PromptTuningConfig
    | PTuningConfig
    | PrefixTuningConfig
    | IA3Config
    | TrainableTokensConfig
    | LNTuningConfig
    | LayersConfig
    | BitFitConfig
    | FullConfig
    | HeadConfig,
    Field(discriminator="type"),
]
