"""The configuration of each method, under the key `method`."""

from typing import Annotated

from pydantic import Field

from trainer.config.methods.head import HeadConfig
from trainer.config.methods.lora import LoraConfig
from trainer.config.methods.soft_prompts import PromptTuningConfig

__all__ = ["HeadConfig", "LoraConfig", "Method", "PromptTuningConfig"]

Method = Annotated[LoraConfig | PromptTuningConfig | HeadConfig, Field(discriminator="type")]
