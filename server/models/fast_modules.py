"""Modules of a loaded model that native kernels run as one operation each.

A module is replaced where its class is known by its make: what it computes is compared on a
sample first, so that a variant (a norm that adds one to its weight, another activation) keeps
transformers' own form.
"""

from typing import Any

import torch
from torch import nn
from transformers.activations import SiLUActivation

from server.kernels import Kernels
from server.models.layers import AdaptedLinear


class FastNorm(nn.Module):
    """RMSNorm in one pass."""

    def __init__(self, kernels: Kernels, weight: nn.Parameter, epsilon: float) -> None:
        super().__init__()
        self.weight = weight
        self._kernels = kernels
        self._epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of the last dimension."""
        return self._kernels.rms_norm(x.contiguous(), self.weight, self._epsilon)


class FastMlp(nn.Module):
    """down(silu(gate(x)) * up(x)), gate and up from one product."""

    def __init__(self, kernels: Kernels, gate: AdaptedLinear, down: AdaptedLinear) -> None:
        super().__init__()
        self._kernels = kernels
        self.gate, self.down = gate, down

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., hidden] to the same."""
        outputs = self.gate.group.outputs(x).contiguous()
        hidden: torch.Tensor = self.down(self._kernels.silu_mul(outputs))
        return hidden


@torch.inference_mode()
def accelerate(model: Any, kernels: Kernels) -> None:
    """Replaces what `kernels` runs in a model whose linears are ours already, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            fast = _fast(child, kernels, model.dtype, model.device)
            if fast is not None:
                setattr(parent, name, fast)


def _fast(
    module: Any, kernels: Kernels, dtype: torch.dtype, device: torch.device
) -> nn.Module | None:
    if type(module).__name__.endswith("RMSNorm"):
        epsilon = getattr(module, "variance_epsilon", None)
        weight = getattr(module, "weight", None)
        if isinstance(epsilon, float) and weight is not None and weight.dtype == dtype:
            fast = FastNorm(kernels, weight, epsilon)
            return _checked(fast, module, len(weight), dtype, device)
        return None
    return _fast_mlp(module, kernels, dtype, device)


def _fast_mlp(
    module: Any, kernels: Kernels, dtype: torch.dtype, device: torch.device
) -> nn.Module | None:
    children = dict(module.named_children())
    if children.keys() != {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return None
    if not isinstance(children["act_fn"], nn.SiLU | SiLUActivation):
        return None
    gate, up, down = (children[f"{name}_proj"] for name in ("gate", "up", "down"))
    if not isinstance(gate, AdaptedLinear) or not isinstance(up, AdaptedLinear):
        return None
    if not isinstance(down, AdaptedLinear):
        return None
    if gate.group is not up.group or (gate.member, up.member) != (0, 1):
        return None
    return _checked(FastMlp(kernels, gate, down), module, gate.in_features, dtype, device)


def _checked(
    fast: nn.Module, module: nn.Module, size: int, dtype: torch.dtype, device: torch.device
) -> nn.Module | None:
    """`fast` if it computes what `module` does for rows of `size`."""
    x = torch.linspace(-2, 3, 3 * size, dtype=dtype, device=device).view(1, 3, size)
    expected, got = module(x).float(), fast(x).float()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    return fast if (got - expected).norm() <= tolerance * expected.norm() else None
