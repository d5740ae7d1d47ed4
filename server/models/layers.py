"""Our linears: the base product with what each row's own adapter changes in it."""

import torch
import torch.nn.functional as F
from torch import nn

from server.kernels import AttentionStep, ChangeStep, LoraStep, apply_lora
from server.models.weights import BaseWeight


class StepContext:
    """What one forward pass needs beside the hidden states. One per model, set by the runner
    before the pass and read by the model's linears and attention."""

    def __init__(self) -> None:
        self.attention: AttentionStep | None = None
        self.lora: LoraStep | None = None
        self.changes: ChangeStep | None = None


class LinearGroup:
    """Linears of one module that read the same input and share one product.

    The model calls them one after the other: the first call computes all outputs, the others take
    their columns of it. `names` are full module paths, `columns` each one's part of the output.
    """

    def __init__(
        self,
        index: int,
        names: tuple[str, ...],
        in_features: int,
        weight: BaseWeight,
        context: StepContext,
        *,
        biased: frozenset[str],
        transposed: bool,
    ) -> None:
        """`biased` are the names of those with a bias; `transposed`: the checkpoint holds the
        weights as [in, out]."""
        self.index = index
        self.names = names
        self.biased = biased
        self.transposed = transposed
        self.in_features = in_features
        self.weight = weight
        ends = torch.tensor(weight.out_features).cumsum(0).tolist()
        self.columns = tuple(
            slice(end - size, end) for end, size in zip(ends, weight.out_features, strict=True)
        )
        self._context = context
        self._input: torch.Tensor | None = None
        self._output: torch.Tensor | None = None
        self._calls_left = 0

    def output(self, x: torch.Tensor, member: int) -> torch.Tensor:
        """Output [..., out] of one member for `x` [..., in]."""
        if len(self.names) == 1:
            return self._compute(x)
        if x is not self._input or self._output is None:
            self._input, self._output = x, self._compute(x)
            self._calls_left = len(self.names)
        out = self._output[..., self.columns[member]]
        self._calls_left -= 1
        if self._calls_left == 0:
            self._input = self._output = None
        return out

    def outputs(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs [..., sum of out] of all members side by side for `x` [..., in]."""
        return self._compute(x)

    def _compute(self, x: torch.Tensor) -> torch.Tensor:
        lora, changes = self._context.lora, self._context.changes
        given = x
        if changes is not None:
            x = changes.scale_input(self.index, x)
        if lora is not None and lora.rows is not None:
            x = lora.rows.scale_input(self.index, x)
        if lora is not None and lora.rows is not None and self.weight.takes_lora(x):
            out = self.weight(x, (lora.rows, self.index))
            lora = lora.without_rows
        else:
            out = self.weight(x)
        rows = out.view(-1, out.shape[-1])
        if lora is not None:
            apply_lora(lora, self.index, x.view(-1, x.shape[-1]), rows)
        if changes is not None:
            extra = changes.width(self.index) - rows.shape[1]
            if extra > 0:
                out = F.pad(out, (0, extra))
                rows = out.view(-1, out.shape[-1])
            changes.apply(self.index, given.view(-1, x.shape[-1]), rows, self.weight)
        return out


class AdaptedLinear(nn.Module):
    """Stands in the model where a linear stood."""

    def __init__(self, group: LinearGroup, member: int, shape: tuple[int, int]) -> None:
        super().__init__()
        self.group = group
        self.member = member
        self.out_features, self.in_features = shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output [..., out] for `x` [..., in]."""
        return self.group.output(x, self.member)
