"""Full fine-tuning: every parameter of an unquantized base, written as a new base."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.config import TrainConfig
from trainer.config.methods import FullConfig
from trainer.errors import ConfigError
from trainer.methods.method import Method
from trainer.model import DTYPES, load_base, task_of

# Of Stanford Alpaca (Taori et al., 2023), which fine-tunes Llama 7B on instructions.
LEARNING_RATE = 2e-5


def check(config: TrainConfig, outline: PreTrainedModel) -> None:
    """Raises ConfigError for a base that is quantized or too coarse, or a store for adapters."""
    if task_of(outline) == "SEQ_CLS":
        raise ConfigError(
            f"key 'objective.type': {config.objective.type!r} trains a head, for which a base has "
            "no place; take head, or lora"
        )
    if config.quantization != "none":
        raise ConfigError(
            f"key 'quantization': {config.quantization!r}, but full fine-tuning trains the base's "
            "own weights, and whole numbers are not trained; set it to none"
        )
    if config.dtype != "float32":
        raise ConfigError(
            f"key 'dtype': {config.dtype!r} would lose small updates of the base's weights; set it "
            "to float32"
        )
    if config.output.dtype != "float32":
        raise ConfigError(
            f"key 'output.dtype': {config.output.dtype!r} is for adapters, but full fine-tuning "
            "makes a base; leave it out"
        )
    if config.output.store is not None and config.output.publish:
        raise ConfigError(
            "key 'output.store': full fine-tuning makes a base, which no store of adapters takes; "
            "leave it out, or set output.publish to false"
        )


def attach(
    base: PreTrainedModel, settings: FullConfig, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel:
    """`base` itself, with gradients."""
    return base.requires_grad_(True)


def detach(model: PreTrainedModel) -> PreTrainedModel:
    """What was trained: there is no base beside it."""
    return model


def num_trainable(outline: PreTrainedModel, settings: FullConfig) -> int:
    """All of the base's parameters."""
    return int(outline.num_parameters())


def reread(model: PreTrainedModel, directory: Path) -> Any:
    """The base that was written."""
    return load_base(
        directory,
        quantization="none",
        dtype=DTYPES["float32"],
        device=str(model.device),
        task=task_of(model),
    )


METHOD = Method(
    check=check,
    attach=attach,
    detach=detach,
    num_trainable=num_trainable,
    learning_rate=LEARNING_RATE,
    reread=reread,
    trains_base=True,
)
