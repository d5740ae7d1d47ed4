"""What adapters change beside their low-rank updates, applied to the rows of a step.

A group of linears computes, for each row of an adapter: the base product of `input_scale * x`, the
low-rank update, then the members that take a detour anew, then `scale * out + shift`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from server.kernels.embedding import EmbeddingTable


@dataclass(frozen=True)
class Affine:
    """Factors and summands of a group: `input_scale` [in], `scale` and `shift` [sum of out].

    In a `ChangeStep` each has one more dimension in front: one row per adapter of the step, the
    first for rows that have none.
    """

    input_scale: torch.Tensor | None = None
    scale: torch.Tensor | None = None
    shift: torch.Tensor | None = None


@dataclass(frozen=True)
class Detour:
    """A member of a group that is computed on its own: by another `weight` [out, in] with its
    `bias`, or by the base's from `input_scale * x` where its siblings see x itself."""

    columns: slice | torch.Tensor
    """Of the group's output: side by side, or their indices. The output head's may lie behind the
    base's: tokens that the adapter adds."""
    input_scale: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None


@dataclass(frozen=True)
class Norm:
    """Another factor and summand of a normalization, both [size] and float32. In a `ChangeStep`
    they have one more dimension in front, as in `Affine`, and `changed` tells which rows of it
    are used."""

    scale: torch.Tensor
    shift: torch.Tensor | None = None
    changed: torch.Tensor | None = None


@dataclass(frozen=True)
class Changes:
    """What one adapter changes beside its low-rank updates and its prompt, on the device."""

    affine: Mapping[int, Affine] = field(default_factory=dict)
    """By group index."""
    detours: Mapping[int, tuple[Detour, ...]] = field(default_factory=dict)
    """By group index."""
    norms: Mapping[int, Norm] = field(default_factory=dict)
    """By norm index."""
    embedding: EmbeddingTable | None = None


@dataclass(frozen=True)
class ChangeStep:
    """The changes of one step's rows.

    `runs` are the rows of each adapter that has any; `index` [T] is each row's place in the
    stacked `affine` and `norms`.
    """

    runs: tuple[tuple[slice, Changes], ...]
    index: torch.Tensor
    affine: Mapping[int, Affine]
    norms: Mapping[int, Norm] = field(default_factory=dict)
    row_multiple: int = 1
    """Products have a multiple of so many rows."""

    def embed(self, token_ids: torch.Tensor, states: torch.Tensor) -> None:
        """Changes the embeddings `states` [T, hidden] of `token_ids` [T] in place."""
        for rows, changes in self.runs:
            if changes.embedding is not None:
                states[rows] = changes.embedding.lookup(
                    token_ids[rows], states[rows], self.row_multiple
                )

    def normalize(
        self, norm: int, out: torch.Tensor, plain: torch.Tensor, shape: tuple[int, ...]
    ) -> torch.Tensor:
        """What stands in for a norm's output `out`, of which `plain` is the form without factor
        and summand. `shape` is that of one number per row and channel."""
        stacked = self.norms[norm]
        assert stacked.changed is not None
        own = plain.float() * stacked.scale[self.index].view(shape)
        if stacked.shift is not None:
            own += stacked.shift[self.index].view(shape)
        changed = stacked.changed[self.index].view(*shape[:-1], 1)
        return torch.where(changed, own.to(out.dtype), out)

    def scale_input(self, group: int, x: torch.Tensor) -> torch.Tensor:
        """What the group's product takes in place of `x` [..., T, in]."""
        affine = self.affine.get(group)
        if affine is None or affine.input_scale is None:
            return x
        return x * affine.input_scale[self.index].view(x.shape)

    def width(self, group: int) -> int:
        """Columns that the detours of the group fill, at least."""
        return max(
            (
                detour.columns.stop
                for _, changes in self.runs
                for detour in changes.detours.get(group, ())
                if isinstance(detour.columns, slice)
            ),
            default=0,
        )

    def apply(
        self,
        group: int,
        x: torch.Tensor,
        out: torch.Tensor,
        product: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        """Changes the group's output `out` [T, sum of out, or more: `width`] in place. `x` [T, in]
        is the input of the base's `product`, [n, in] to [n, sum of out]."""
        for rows, changes in self.runs:
            for detour in changes.detours.get(group, ()):
                out[rows, detour.columns] = self._detour(detour, x[rows], product)
        affine = self.affine.get(group)
        if affine is None:
            return
        if affine.scale is not None:
            out[:, : affine.scale.shape[1]].mul_(affine.scale[self.index])
        if affine.shift is not None:
            out[:, : affine.shift.shape[1]].add_(affine.shift[self.index])

    def _detour(
        self, detour: Detour, x: torch.Tensor, product: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        count = len(x)
        if count % self.row_multiple:
            x = F.pad(x, (0, 0, 0, -count % self.row_multiple))
        if detour.weight is not None:
            return F.linear(x, detour.weight, detour.bias)[:count]
        assert detour.input_scale is not None
        return product(x * detour.input_scale)[:count, detour.columns]
