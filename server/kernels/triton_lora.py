"""Low-rank updates of many adapters in one packed batch, in Triton.

Two launches for a group of linears, however many adapters and ranks there are. `shrink` multiplies
rows with their adapter's A; long inner dimensions are cut into a fixed number of splits, whose
partial sums `expand` adds in order before it multiplies with B. Nothing is added atomically, and
the tiles of a row do not depend on the other rows, so a row's result does not either.

A tile is up to `_ROWS` rows of one adapter. Blocks beyond an adapter's own rank return at once:
no adapter is padded to the largest rank. Where factors lie is read from the table that
`native.describe` makes, so adapters need not be copied next to each other.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from server.kernels.native import FIELDS, PART_FIELDS
from server.kernels.triton_types import TYPES, dot_type

_ROWS = TILE_ROWS = 16
_RANKS = 16
_COLUMNS = 64
_INNER = 64
# Columns of the input that one split sums up: with few tiles, as in decode, splits are what fills
# the device.
_SPLIT = 512


@dataclass(frozen=True)
class TritonRows:
    """The adapters of one step, on the device.

    `tiles` [tiles, 3]: the run a tile belongs to, its first row and its number of rows. `updates`
    [runs, groups, fields]: as made by `describe`, one for each run. `max_ranks` and `max_parts`
    hold the largest number of rows of A, and of members, by group; `max_columns` of columns of one
    member. The adapters must outlive it.
    """

    tiles: torch.Tensor
    updates: torch.Tensor
    max_ranks: npt.NDArray[np.int64]
    max_parts: npt.NDArray[np.int64]
    max_columns: npt.NDArray[np.int64]
    dtype: torch.dtype

    def add(self, group: int, x: torch.Tensor, out: torch.Tensor) -> None:
        """Adds the updates of one group of linears to `out`, as `triton_lora`."""
        triton_lora(self, group, x if x.stride(-1) == 1 else x.contiguous(), out)


def triton_rows(
    bounds: list[int],
    updates: list[npt.NDArray[np.int64]],
    dtype: torch.dtype,
    device: torch.device,
) -> TritonRows:
    """The runs of a step: run i is the rows `bounds[i]` .. `bounds[i + 1]` with `updates[i]`, as
    made by `describe` from tensors of `dtype`."""
    stacked = np.stack(updates)
    tiles = [
        (run, first, min(_ROWS, bounds[run + 1] - first))
        for run in range(len(updates))
        if stacked[run].any()
        for first in range(bounds[run], bounds[run + 1], _ROWS)
    ]
    widths = stacked[:, :, 4::PART_FIELDS]
    return TritonRows(
        torch.tensor(tiles, dtype=torch.int32).reshape(-1, 3).to(device, non_blocking=True),
        torch.from_numpy(stacked).to(device, non_blocking=True),
        stacked[:, :, 1].max(axis=0),
        stacked[:, :, 2].max(axis=0),
        widths.max(axis=(0, 2)),
        dtype,
    )


def triton_lora(rows: TritonRows, group: int, x: torch.Tensor, out: torch.Tensor) -> None:
    """Adds the updates of one group of linears to `out` [T, sum of out_features], in place.

    `x` [T, in]; both of the adapters' type, and their last dimension contiguous.
    Raises TypeError for another type.
    """
    if {x.dtype, out.dtype} != {rows.dtype}:
        raise TypeError(f"expected {rows.dtype}, got {x.dtype} and {out.dtype}")
    if x.stride(1) != 1 or out.stride(1) != 1:
        raise ValueError("the last dimension must be contiguous")
    num_tiles, max_rank = len(rows.tiles), int(rows.max_ranks[group])
    if not num_tiles or not max_rank:
        return
    num_inner = x.shape[1]
    num_splits = triton.cdiv(num_inner, _SPLIT)
    # Every number that is read below was written before.
    hidden = torch.empty(num_splits, len(x), max_rank, dtype=torch.float32, device=x.device)
    shared = (rows.tiles, rows.updates, rows.updates.stride(0), group)
    _shrink[num_tiles, triton.cdiv(max_rank, _RANKS), num_splits](
        *shared, x, x.stride(0), hidden, hidden.stride(0), hidden.stride(1), num_inner,
        TYPE=TYPES[rows.dtype], DOT=dot_type(_shrink, rows.dtype), FIELDS=FIELDS,
        ROWS=_ROWS, RANKS=_RANKS, INNER=_INNER, SPLIT=_SPLIT,
    )  # fmt: skip
    num_blocks = triton.cdiv(int(rows.max_columns[group]), _COLUMNS)
    _expand[num_tiles, int(rows.max_parts[group]), num_blocks](
        *shared, hidden, hidden.stride(0), hidden.stride(1), out, out.stride(0),
        TYPE=TYPES[rows.dtype], DOT=dot_type(_expand, rows.dtype), FIELDS=FIELDS,
        PART_FIELDS=PART_FIELDS, ROWS=_ROWS, RANKS=_RANKS, COLUMNS=_COLUMNS, NUM_SPLITS=num_splits,
    )  # fmt: skip


@triton.jit
def _shrink(
    tiles, updates, update_stride, group,
    x, x_stride, hidden, split_stride, row_stride, num_inner,
    TYPE: tl.constexpr, DOT: tl.constexpr, FIELDS: tl.constexpr,
    ROWS: tl.constexpr, RANKS: tl.constexpr, INNER: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """hidden[split, row, rank] = sum over the split's columns of x[row] * A[rank]."""
    tile = tiles + tl.program_id(0) * 3
    own = updates + tl.load(tile).to(tl.int64) * update_stride + group * FIELDS
    rank = tl.load(own + 1)
    first_rank = tl.program_id(1) * RANKS
    if first_rank < rank:
        first, count = tl.load(tile + 1).to(tl.int64), tl.load(tile + 2)
        a = tl.load(own).to(tl.pointer_type(TYPE))
        row = tl.arange(0, ROWS)
        ranks = first_rank + tl.arange(0, RANKS)
        begin = tl.program_id(2) * SPLIT
        total = tl.zeros((ROWS, RANKS), tl.float32)
        for offset in range(0, SPLIT, INNER):
            inner = begin + offset + tl.arange(0, INNER)
            left = tl.load(
                x + (first + row)[:, None] * x_stride + inner[None, :],
                (row < count)[:, None] & (inner < num_inner)[None, :],
                0.0,
            )
            right = tl.load(
                a + ranks[None, :] * num_inner + inner[:, None],
                (ranks < rank)[None, :] & (inner < num_inner)[:, None],
                0.0,
            )
            total = tl.dot(left.to(DOT), right.to(DOT), total, input_precision="ieee")
        target = hidden + tl.program_id(2).to(tl.int64) * split_stride
        tl.store(
            target + (first + row)[:, None] * row_stride + ranks[None, :],
            total,
            (row < count)[:, None] & (ranks < rank)[None, :],
        )


@triton.jit
def _expand(
    tiles, updates, update_stride, group,
    hidden, split_stride, row_stride, out, out_stride,
    TYPE: tl.constexpr, DOT: tl.constexpr, FIELDS: tl.constexpr, PART_FIELDS: tl.constexpr,
    ROWS: tl.constexpr, RANKS: tl.constexpr, COLUMNS: tl.constexpr, NUM_SPLITS: tl.constexpr,
):  # fmt: skip
    """out[row, columns of a member] += (sum of the splits of hidden)[row, its ranks] times B."""
    tile = tiles + tl.program_id(0) * 3
    own = updates + tl.load(tile).to(tl.int64) * update_stride + group * FIELDS
    part = own + 3 + tl.program_id(1) * PART_FIELDS
    # Zero beyond the adapter's own members.
    width = tl.load(part + 1)
    first_column = tl.program_id(2) * COLUMNS
    if first_column < width:
        first, count = tl.load(tile + 1).to(tl.int64), tl.load(tile + 2)
        begin, rank = tl.load(part + 2), tl.load(part + 3)
        b = tl.load(part + 4).to(tl.pointer_type(TYPE))
        row = tl.arange(0, ROWS)
        column = first_column + tl.arange(0, COLUMNS)
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        source = hidden + (first + row)[:, None] * row_stride + begin
        for first_rank in range(0, rank, RANKS):
            ranks = first_rank + tl.arange(0, RANKS)
            known = (row < count)[:, None] & (ranks < rank)[None, :]
            left = tl.zeros((ROWS, RANKS), tl.float32)
            for split in tl.static_range(NUM_SPLITS):
                left += tl.load(source + split * split_stride + ranks[None, :], known, 0.0)
            right = tl.load(
                b + ranks[:, None] * width + column[None, :],
                (ranks < rank)[:, None] & (column < width)[None, :],
                0.0,
            )
            total = tl.dot(left.to(TYPE).to(DOT), right.to(DOT), total, input_precision="ieee")
        target = out + (first + row)[:, None] * out_stride + tl.load(part) + column[None, :]
        known = (row < count)[:, None] & (column < width)[None, :]
        tl.store(target, (tl.load(target, known, 0.0).to(tl.float32) + total).to(TYPE), known)
