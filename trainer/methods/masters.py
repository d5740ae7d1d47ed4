"""Trained copies of the base's own parameters, kept in float32 whatever the base computes in.

A step of bfloat16 is 0.4% of a number: smaller updates would be lost. So the float32 copy is what
is trained, and each use rounds it to the base's type: the numbers that are served.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call


def train_in_float32(modules: Iterable[nn.Module], dtype: torch.dtype) -> None:
    """Makes the parameters of `modules` that are trained float32, cast to `dtype` at each use."""
    if dtype == torch.float32:
        return
    for module in modules:
        names = [name for name, p in module.named_parameters(recurse=False) if p.requires_grad]
        for name in names:
            parameter = module.get_parameter(name)
            parameter.data = parameter.data.to(torch.float32)
        # On the instance, so that the class, type checks and state_dict see no difference.
        module.__dict__["forward"] = _casting(module, names, dtype)


def forget(module: nn.Module) -> None:
    """Undoes `train_in_float32` of one module, its parameters apart."""
    module.__dict__.pop("forward", None)


def _casting(module: nn.Module, names: list[str], dtype: torch.dtype) -> Callable[..., Any]:
    # Without a forward of its own, and with the same parameters.
    shell = copy.copy(module)
    shell._parameters = dict(module._parameters)

    def forward(*args: Any, **kwargs: Any) -> Any:
        cast = {name: module.get_parameter(name).to(dtype) for name in names}
        return functional_call(shell, cast, args, kwargs)

    return forward
