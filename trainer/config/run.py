"""The configuration of a run as a whole."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from trainer.config.common import STRICT
from trainer.config.data import DataConfig
from trainer.config.methods import LoraConfig, Method
from trainer.config.objectives import Objective, SupervisedConfig
from trainer.config.training import LoopConfig, OptimiserConfig


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OutputConfig:
    """Where results go."""

    dir: Path
    """Folder of the run: metrics, plot, checkpoint, adapter."""
    store: Path | None = None
    """Adapter store to publish to. Null: do not publish."""
    publish: bool = True
    """Whether to publish, if there is a store."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Of an adapter's tensors as written. The 16-bit ones halve the file and round."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig:
    """One training run. Relative paths start at the current folder."""

    name: str
    """The adapter's name in the store: a-z, 0-9, '.', '_', '-'."""
    base: Path
    """Directory of the base model, in the transformers layout with safetensors weights."""
    data: DataConfig
    output: OutputConfig
    method: Method = Field(default_factory=LoraConfig)
    objective: Objective = Field(default_factory=SupervisedConfig)
    optimiser: OptimiserConfig = Field(default_factory=OptimiserConfig)
    loop: LoopConfig = Field(default_factory=LoopConfig)
    quantization: Literal["nf4", "int8", "none"] = "nf4"
    """Of the frozen base. NF4, doubly quantized, loses nothing measurable (QLoRA, table 3)."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the base's computation; adapters train in float32. Null: float32 on CPU, else bfloat16."""
    device: Literal["cpu", "cuda"] | None = None
    """Where to train. Null: cuda if there is one."""
    hold_dequantized: bool | None = None
    """Keep the NF4 weights dequantized in memory while training, instead of dequantizing at every
    product: on CPU the same numbers. Null: on CPU, if that takes at most 1 GiB."""
    gradient_checkpointing: bool = False
    """Keep only what enters each layer, and compute the layer again on the way back: less memory,
    about a third more time, the same gradients."""
    allow_memory: bool = False
    """Train even where the estimate says that there is not enough memory."""
    num_threads: Annotated[int, Field(gt=0, le=4096)] | None = None
    """CPU threads of torch. Null: torch's default. Results repeat exactly for equal numbers."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of the split, the order of examples, the initial adapter and dropout."""
