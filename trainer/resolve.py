"""Fills in what the configuration leaves to the method and the machine."""

import dataclasses
from dataclasses import dataclass

import torch

from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.held import MAX_AUTOMATIC_BYTES
from trainer.methods import METHODS

# Their steps are of another size than AdamW's, for which the methods' learning rates are.
OTHER_RATES = ("adafactor", "sgd")


@dataclass(frozen=True)
class Hardware:
    """What the machine offers."""

    has_cuda: bool
    has_cuda_bfloat16: bool


def detect_hardware() -> Hardware:
    """This machine."""
    has_cuda = torch.cuda.is_available()
    return Hardware(has_cuda, has_cuda and torch.cuda.is_bf16_supported(including_emulation=False))


def resolve(config: TrainConfig, hardware: Hardware) -> TrainConfig:
    """`config` with device, dtype and the defaults of its method set. Raises ConfigError."""
    device = config.device or ("cuda" if hardware.has_cuda else "cpu")
    if device == "cuda" and not hardware.has_cuda:
        raise ConfigError("key 'device': 'cuda' is not available on this machine; use 'cpu'")
    dtype = config.dtype or (
        "bfloat16" if device == "cuda" and hardware.has_cuda_bfloat16 else "float32"
    )
    given = [
        f"'data.{key}'"
        for key in ("template", "template_name", "templates")
        if getattr(config.data, key) is not None
    ]
    if len(given) > 1:
        raise ConfigError(f"keys {' and '.join(given)}: give one of them")
    method = METHODS[config.method.type]
    own_rate = default_rate(config)
    learning_rate = config.optimiser.learning_rate
    if learning_rate is None:
        if config.optimiser.algorithm in OTHER_RATES:
            raise ConfigError(
                f"key 'optimiser.learning_rate': give one for {config.optimiser.algorithm}; the "
                f"default of {config.method.type}, {own_rate:g}, is for AdamW"
            )
        learning_rate = own_rate
    return dataclasses.replace(
        config,
        device=device,
        dtype=dtype,
        method=method.complete(config.method),
        optimiser=dataclasses.replace(config.optimiser, learning_rate=learning_rate),
    )


def default_rate(config: TrainConfig) -> float:
    """The learning rate of its method for AdamW."""
    rate = METHODS[config.method.type].learning_rate
    return rate(config.method) if callable(rate) else rate


def should_hold(config: TrainConfig, num_held_bytes: int) -> bool:
    """Whether to keep the NF4 weights dequantized; `config` is resolved."""
    if config.quantization != "nf4":
        return False
    if config.hold_dequantized is not None:
        return config.hold_dequantized
    return config.device == "cpu" and num_held_bytes <= MAX_AUTOMATIC_BYTES
