"""Updates that start at zero by subtraction: of twice the rank, one half trained, one half kept.

PiSSA and its kin take the initial update A0, B0 off the base and train from there:
W - s B0 A0 + s B A. Here the base stays as it is, and its update is

    s B A - s B0 A0  =  s [B, -B0] [A; A0],

plain LoRA of twice the rank that the server runs on the base that it holds, quantized or not. The
model that trains computes exactly that product, so that what is written is what was trained, bit
for bit. PEFT's own conversion (`path_initial_model_for_weight_conversion`) gives the same tensors
after training on a changed base, which is the same up to rounding on an unquantized base only.
"""

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.utils import parametrize

from trainer.methods.lora.modules import a_of, b_of, layers_of


class _WithKept(nn.Module):
    """A weight that is a trained part and, behind it along `dim`, one that is kept."""

    def __init__(self, kept: Tensor, dim: int) -> None:
        super().__init__()
        self.kept: Tensor
        self.register_buffer("kept", kept, persistent=False)
        self.dim = dim

    def forward(self, trained: Tensor) -> Tensor:
        """The whole weight."""
        return torch.cat([trained, self.kept], self.dim)

    def right_inverse(self, whole: Tensor) -> Tensor:
        """The trained part of a whole weight."""
        size = whole.shape[self.dim] - self.kept.shape[self.dim]
        return whole.narrow(self.dim, 0, size).clone()


@torch.no_grad()
def split(layer: LoraLayer, a: Tensor, b: Tensor) -> None:
    """Starts `layer`, of rank 2r, at `a` [r, in] and `b` [out, r] and takes them off again."""
    for linear, initial, kept, dim in ((a_of(layer), a, a, 0), (b_of(layer), b, -b, 1)):
        linear.weight.copy_(torch.cat([initial, kept], dim))
        trains = linear.weight.requires_grad
        part = _WithKept(kept.to(linear.weight.device), dim)
        parametrize.register_parametrization(linear, "weight", part)
        linear.requires_grad_(trains)


def join(model: nn.Module) -> None:
    """Makes of each split layer a plain one, with the same weights."""
    for layer in layers_of(model).values():
        for factors in (layer.lora_A, layer.lora_B):
            for linear in factors.values():
                if parametrize.is_parametrized(linear, "weight"):
                    parametrize.remove_parametrizations(linear, "weight")
