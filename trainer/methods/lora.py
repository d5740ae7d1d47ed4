"""LoRA through PEFT."""

import dataclasses
import re
from typing import cast

import peft
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.config import LoraConfig
from trainer.errors import ConfigError
from trainer.methods.method import Method
from trainer.model import output_head, task_of

# QLoRA (arXiv 2305.14314), table 9, for models up to 13B. LoRA's best rate hardly depends on the
# model's size (Schulman et al., "LoRA Without Regret", 2025).
LEARNING_RATE = 2e-4
ALPHA_PER_RANK = 2


def attach(
    base: PreTrainedModel, settings: LoraConfig, tokenizer: PreTrainedTokenizerBase
) -> peft.PeftModel:
    """Wraps `base` with fresh LoRA parameters in float32, drawn from torch's current state."""
    targets = settings.targets
    return peft.get_peft_model(
        base,
        peft.LoraConfig(
            task_type=task_of(base),
            r=settings.rank,
            lora_alpha=settings.alpha or ALPHA_PER_RANK * settings.rank,
            lora_dropout=settings.dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            use_rslora=settings.use_rslora,
        ),
    )


def detach(model: peft.PeftModel) -> PreTrainedModel:
    """The base as it was before `attach`."""
    return cast(PreTrainedModel, model.unload())


def num_trainable(outline: PreTrainedModel, settings: LoraConfig) -> int:
    """Parameters that `attach` would add. Raises ConfigError if a target names no linear layer."""
    linears = {name: m for name, m in outline.named_modules() if isinstance(m, nn.Linear)}
    adapted = _targets(linears, settings.targets, output_head(outline))
    return sum(settings.rank * (m.in_features + m.out_features) for m in adapted)


def _targets(
    linears: dict[str, nn.Linear], targets: str | tuple[str, ...], head: nn.Module | None
) -> list[nn.Linear]:
    if targets == "all-linear":
        return [module for module in linears.values() if module is not head]
    endings = sorted({name.rsplit(".", 1)[-1] for name in linears})
    wanted = (targets,) if isinstance(targets, str) else targets
    for target in wanted:
        if not any(_matches(target, name, isinstance(targets, str)) for name in linears):
            raise ConfigError(
                f"key 'method.targets': {target!r} names no linear layer of the base; there are "
                f"{', '.join(endings)}"
            )
    return [
        module
        for name, module in linears.items()
        if any(_matches(target, name, isinstance(targets, str)) for target in wanted)
    ]


def _matches(target: str, name: str, is_pattern: bool) -> bool:
    if not is_pattern:
        return name == target or name.endswith(f".{target}")
    try:
        return re.fullmatch(target, name) is not None
    except re.error as error:
        raise ConfigError(f"key 'method.targets': {target!r} is no regular expression") from error


def complete(settings: LoraConfig) -> LoraConfig:
    """`settings` with alpha."""
    return dataclasses.replace(settings, alpha=settings.alpha or ALPHA_PER_RANK * settings.rank)


METHOD = Method(
    complete=complete,
    attach=attach,
    detach=detach,
    num_trainable=num_trainable,
    learning_rate=LEARNING_RATE,
    rank=lambda settings: cast(LoraConfig, settings).rank,
)
