"""The configuration of a training run: what each field means, its unit and why its default.

Parsed once, by `trainer.config_file`; unknown keys are errors. Fields left null depend on the
method or the machine and are filled in by `trainer.resolve`.
"""

from trainer.config.data import DataConfig, DatasetConfig, MixtureConfig, TaskConfig
from trainer.config.methods import HeadConfig, LoraConfig, Method, PromptTuningConfig
from trainer.config.objectives import ClassificationConfig, Objective, SupervisedConfig
from trainer.config.run import OutputConfig, TrainConfig
from trainer.config.training import LoopConfig, OptimiserConfig

__all__ = [
    "ClassificationConfig",
    "DataConfig",
    "DatasetConfig",
    "HeadConfig",
    "LoopConfig",
    "LoraConfig",
    "Method",
    "MixtureConfig",
    "Objective",
    "OptimiserConfig",
    "OutputConfig",
    "PromptTuningConfig",
    "SupervisedConfig",
    "TaskConfig",
    "TrainConfig",
]
