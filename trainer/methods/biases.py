"""The base's own biases, trained as copies: PEFT trains them where they are."""

import torch
from torch import nn
from transformers import PreTrainedModel

from trainer.methods.masters import forget, train_in_float32

Kept = list[tuple[nn.Module, nn.Parameter]]
"""Modules of a base and the biases that they had."""


def biased(model: nn.Module) -> dict[str, nn.Module]:
    """Modules with a bias, by path."""
    return {p: m for p, m in model.named_modules() if m._parameters.get("bias") is not None}


def copy_biases(base: PreTrainedModel) -> Kept:
    """Puts copies in the place of all biases; returns what was there."""
    kept = [(module, module.get_parameter("bias")) for module in biased(base).values()]
    for module, bias in kept:
        module.register_parameter("bias", nn.Parameter(bias.detach().clone(), requires_grad=False))
    return kept


def train_biases_in_float32(kept: Kept, dtype: torch.dtype) -> None:
    """Makes those copies that are trained float32, cast to `dtype` at each use."""
    train_in_float32((module for module, _ in kept), dtype)


@torch.no_grad()
def restore_biases(kept: Kept) -> None:
    """Undoes `copy_biases`."""
    for module, bias in kept:
        forget(module)
        module.register_parameter("bias", bias)
