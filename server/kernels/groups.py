"""The LoRA updates of linears that read the same input."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LoraGroup:
    """The stacked updates of one group of linears.

    `a` [R, in]; `parts` holds, for each member that is updated, the columns of the group's output
    it fills, the rows of `a` it uses and its `b` [rows, out] with the scaling folded in.
    """

    a: torch.Tensor
    parts: tuple[tuple[slice, slice, torch.Tensor], ...]
