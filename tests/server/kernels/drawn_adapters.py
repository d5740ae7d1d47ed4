"""Adapters of random numbers, as kernels see them."""

import torch

from server.kernels import Affine, LoraGroup, describe
from tests.server.kernels.triton_interpreter import DEVICE

GROUP, NUM_GROUPS = 1, 3


class Adapter:
    """One adapter of group 1: a rank for each member, 0 where it leaves the member alone, and
    which of an `Affine`'s fields it has."""

    def __init__(
        self,
        ranks: list[int],
        widths: list[int],
        size: int,
        dtype: torch.dtype,
        seed: int,
        affine: tuple[str, ...] = (),
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.members: list[tuple[slice, torch.Tensor, torch.Tensor]] = []
        parts, rows, start, first = [], [], 0, 0
        for rank, width in zip(ranks, widths, strict=True):
            if rank:
                a = torch.randn(rank, size, generator=generator).to(dtype)
                b = torch.randn(rank, width, generator=generator).to(DEVICE, dtype)
                columns = slice(start, start + width)
                self.members.append((columns, a, b))
                parts.append((columns, slice(first, first + rank), b))
                rows.append(a)
                first += rank
            start += width
        self.a = torch.cat(rows).to(DEVICE) if rows else torch.empty(0, size)
        self.group = LoraGroup(self.a, tuple(parts))
        lengths = {"input_scale": size, "scale": start, "shift": start}
        self.affine = Affine(
            **{
                name: torch.randn(lengths[name], generator=generator).to(DEVICE, dtype)
                for name in affine
            }
        )
        self.updates = describe(
            {GROUP: self.group} if rows else {},
            NUM_GROUPS,
            {GROUP: self.affine} if affine else None,
        )
