"""LoRA of many adapters in one packed batch.

Linears that read the same input form a group (q, k and v; gate and up): one product with the
stacked A of all members, then one with B per member.

Where the native kernel runs, single rows, as in decode, and short runs of rows each meet their own
adapter alone: the cost is that of reading the adapters in the batch once. Without it single rows
form the masked region, where every row meets the stacked A of all adapters and the columns of other
adapters are zeroed: two products per linear however many adapters there are. Segments are runs of
rows of one adapter, each with its own pair of products: right for long runs, where the masked form
would multiply the arithmetic.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F

from server.kernels.groups import LoraGroup
from server.kernels.interface import AdapterRows


@dataclass(frozen=True)
class LoraSegment:
    """Rows of one adapter, and its updates by group index."""

    rows: slice
    groups: dict[int, LoraGroup]


@dataclass(frozen=True)
class MaskedLora:
    """Rows of several adapters, their stacked updates by group index, and per group a mask
    [rows, R] that is True where a column of the stacked A belongs to another adapter."""

    rows: slice
    groups: dict[int, LoraGroup]
    foreign: dict[int, torch.Tensor]


@dataclass(frozen=True)
class LoraStep:
    """The adapters of one step. Rows in no region have none.

    With `row_multiple` above 1 each segment's rows are padded to a multiple of it.
    """

    masked: MaskedLora | None
    segments: tuple[LoraSegment, ...]
    row_multiple: int = 1
    rows: AdapterRows | None = None
    """In place of `masked` where kernels run that let every row meet its own adapter."""

    @cached_property
    def without_rows(self) -> "LoraStep | None":
        """What is left where the base's product took `rows` along."""
        return replace(self, rows=None) if self.segments else None


def apply_lora(step: LoraStep, group: int, x: torch.Tensor, out: torch.Tensor) -> None:
    """Adds each row's update to `out` [T, sum of out_features], in place. `x` is [T, in]."""
    if step.rows is not None:
        step.rows.add(group, x, out)
    masked = step.masked
    if masked is not None and (stack := masked.groups.get(group)) is not None:
        # masked_fill, not a product: another adapter's columns may overflow on this row, and
        # inf * 0 would hand it a NaN.
        h = (x[masked.rows] @ stack.a.t()).masked_fill_(masked.foreign[group], 0.0)
        _expand(stack, h, out[masked.rows])
    for segment in step.segments:
        if (own := segment.groups.get(group)) is None:
            continue
        rows = x[segment.rows]
        missing = -len(rows) % step.row_multiple
        if not missing:
            _expand(own, rows @ own.a.t(), out[segment.rows])
            continue
        padded = F.pad(out[segment.rows], (0, 0, 0, missing))
        _expand(own, F.pad(rows, (0, 0, 0, missing)) @ own.a.t(), padded)
        out[segment.rows] = padded[: len(rows)]


def _expand(stack: LoraGroup, h: torch.Tensor, out: torch.Tensor) -> None:
    for columns, ranks, b in stack.parts:
        out[:, columns].addmm_(h[:, ranks], b)
