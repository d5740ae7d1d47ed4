"""What adapters change in a group of linears, many of them in one packed batch, in Triton.

Two launches for a group of linears, however many adapters, members and ranks there are. `shrink`
multiplies rows with their adapter's A; long inner dimensions are cut into a fixed number of splits,
whose partial sums `expand` adds in order before it multiplies with B; then it applies the row's
scale and shift (DoRA, IA3, biases) to what it has in registers. Nothing is added atomically, and
the tiles of a row do not depend on the other rows, so a row's result does not either. One more
launch scales the input of a group where an adapter of the batch asks for it (IA3).

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

from server.kernels.native import AFFINE, FIELDS, PART_FIELDS
from server.kernels.transfer import to_device
from server.kernels.triton_types import TYPES, dot_type

_ROWS = TILE_ROWS = 16
_RANKS = 16
_COLUMNS = 64
_INNER = 64
# Columns of the input that one split sums up: with few tiles, as in decode, splits are what fills
# the device.
_SPLIT = 512
# Columns of the input that one program scales.
_SCALED = 1024


@dataclass(frozen=True)
class TritonRows:
    """The adapters of one step, on the device.

    `tiles` [tiles, 3]: the run a tile belongs to, its first row and its number of rows. `runs`
    [rows]: the run of each row, -1 for none; None where no input is scaled. `updates`
    [runs, groups, fields]: as made by `describe`, one for each run. By group: `max_ranks`, the
    largest number of rows of A; `changed` and `scaled`, whether any run changes its output, and
    scales its input. The adapters must outlive it.
    """

    tiles: torch.Tensor
    runs: torch.Tensor | None
    updates: torch.Tensor
    max_ranks: npt.NDArray[np.int64]
    changed: npt.NDArray[np.bool_]
    scaled: npt.NDArray[np.bool_]
    dtype: torch.dtype

    def scale_input(self, group: int, x: torch.Tensor) -> torch.Tensor:
        """`x` [..., in] with each row times its adapter's input scale; itself without any."""
        if not self.scaled[group] or not x.numel():
            return x
        return _scaled_input(self, group, x)

    def add(self, group: int, x: torch.Tensor, out: torch.Tensor) -> None:
        """Adds the updates of one group of linears to `out`, then scales and shifts it, as
        `triton_lora`."""
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
    used: npt.NDArray[np.bool_] = np.logical_or.reduce(stacked != 0, axis=0)
    scaled = used[:, AFFINE]
    owners = np.empty(0, dtype=np.int64)
    if scaled.any():
        owners = np.full(bounds[-1], -1, dtype=np.int64)
        owners[bounds[0] :] = np.repeat(np.arange(len(updates)), np.diff(bounds))
    told = torch.tensor(tiles, dtype=torch.int64).reshape(-1, 3)
    told, runs, table = to_device(device, told, torch.from_numpy(owners), torch.from_numpy(stacked))
    return TritonRows(
        told,
        runs if scaled.any() else None,
        table,
        stacked[:, :, 1].max(axis=0),
        used[:, 1] | used[:, AFFINE + 1] | used[:, AFFINE + 2],
        scaled,
        dtype,
    )


def triton_slot_rows(
    table: torch.Tensor,
    max_ranks: npt.NDArray[np.int64],
    dtype: torch.dtype,
    tiles: torch.Tensor,
) -> TritonRows:
    """As `SlotKernels.slot_rows`: `tiles` and `table` are read whenever the result is used."""
    return TritonRows(
        tiles, None, table, max_ranks, max_ranks > 0, np.zeros(len(max_ranks), np.bool_), dtype
    )


def triton_lora(rows: TritonRows, group: int, x: torch.Tensor, out: torch.Tensor) -> None:
    """Adds the updates of one group of linears to `out` [T, sum of out_features], in place, then
    applies each row's scale and shift. The sum is rounded once, at the end.

    `x` [T, in]; both of the adapters' type, and their last dimension contiguous.
    Raises TypeError for another type.
    """
    if {x.dtype, out.dtype} != {rows.dtype}:
        raise TypeError(f"expected {rows.dtype}, got {x.dtype} and {out.dtype}")
    if x.stride(1) != 1 or out.stride(1) != 1:
        raise ValueError("the last dimension must be contiguous")
    num_tiles, max_rank = len(rows.tiles), int(rows.max_ranks[group])
    if not num_tiles or not rows.changed[group]:
        return
    num_inner, num_columns = x.shape[1], out.shape[1]
    num_splits = triton.cdiv(num_inner, _SPLIT)
    # Every number that is read below was written before. In whole blocks: kernels are compiled anew
    # for strides that are no multiples of 16.
    size = triton.cdiv(max_rank, _RANKS) * _RANKS
    hidden = torch.empty(num_splits, len(x), size, dtype=torch.float32, device=x.device)
    shared = (rows.tiles, rows.updates, rows.updates.stride(0), group)
    if max_rank:
        _shrink[num_tiles, triton.cdiv(max_rank, _RANKS), num_splits](
            *shared, x, x.stride(0), hidden, hidden.stride(0), hidden.stride(1), num_inner,
            TYPE=TYPES[rows.dtype], DOT=dot_type(_shrink, rows.dtype), FIELDS=FIELDS,
            ROWS=_ROWS, RANKS=_RANKS, INNER=_INNER, SPLIT=_SPLIT,
        )  # fmt: skip
    _expand[num_tiles, triton.cdiv(num_columns, _COLUMNS)](
        *shared, hidden, hidden.stride(0), hidden.stride(1), out, out.stride(0), num_columns,
        TYPE=TYPES[rows.dtype], DOT=dot_type(_expand, rows.dtype), FIELDS=FIELDS,
        PART_FIELDS=PART_FIELDS, AFFINE=AFFINE, ROWS=_ROWS, RANKS=_RANKS, COLUMNS=_COLUMNS,
        NUM_SPLITS=num_splits,
    )  # fmt: skip


def _scaled_input(rows: TritonRows, group: int, x: torch.Tensor) -> torch.Tensor:
    if x.dtype != rows.dtype:
        raise TypeError(f"expected {rows.dtype}, got {x.dtype}")
    assert rows.runs is not None
    flat = x.reshape(-1, x.shape[-1])
    flat = flat if flat.stride(1) == 1 else flat.contiguous()
    num_rows, num_inner = flat.shape
    out = torch.empty(num_rows, num_inner, dtype=x.dtype, device=x.device)
    _scale_input[num_rows, triton.cdiv(num_inner, _SCALED)](
        rows.runs, len(rows.runs), rows.updates, rows.updates.stride(0), group,
        flat, flat.stride(0), out, num_inner,
        TYPE=TYPES[x.dtype], FIELDS=FIELDS, AFFINE=AFFINE, COLUMNS=_SCALED,
    )  # fmt: skip
    return out.view(x.shape)


@triton.jit(do_not_specialize=["num_known", "group"])
def _scale_input(
    runs, num_known, updates, update_stride, group, x, x_stride, out, num_inner,
    TYPE: tl.constexpr, FIELDS: tl.constexpr, AFFINE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """out[row] = x[row] times the input scale of its run, or x[row] itself."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < num_inner
    value = tl.load(x + row * x_stride + column, known, 0.0)
    run = tl.load(runs + row, row < num_known, -1)
    if run >= 0:
        scale = tl.load(updates + run.to(tl.int64) * update_stride + group * FIELDS + AFFINE)
        if scale != 0:
            factor = tl.load(scale.to(tl.pointer_type(TYPE)) + column, known, 0.0)
            value = (value.to(tl.float32) * factor.to(tl.float32)).to(TYPE)
    tl.store(out + row * num_inner + column, value, known)


@triton.jit(do_not_specialize=["group"])
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


@triton.jit(do_not_specialize=["group"])
def _expand(
    tiles, updates, update_stride, group,
    hidden, split_stride, row_stride, out, out_stride, num_columns,
    TYPE: tl.constexpr, DOT: tl.constexpr, FIELDS: tl.constexpr, PART_FIELDS: tl.constexpr,
    AFFINE: tl.constexpr, ROWS: tl.constexpr, RANKS: tl.constexpr, COLUMNS: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
):  # fmt: skip
    """out[row, column] += (sum of the splits of hidden)[row, its member's ranks] times B; then
    times scale[column] plus shift[column], where the run has them."""
    tile = tiles + tl.program_id(0) * 3
    own = updates + tl.load(tile).to(tl.int64) * update_stride + group * FIELDS
    first, count = tl.load(tile + 1).to(tl.int64), tl.load(tile + 2)
    first_column = tl.program_id(1) * COLUMNS
    row, column = tl.arange(0, ROWS), first_column + tl.arange(0, COLUMNS)
    scale, shift = tl.load(own + AFFINE + 1), tl.load(own + AFFINE + 2)
    written = column < tl.where((scale != 0) | (shift != 0), num_columns, 0)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for member in range(tl.load(own + 2).to(tl.int32)):
        part = own + 3 + member * PART_FIELDS
        begin, width = tl.load(part), tl.load(part + 1)
        if (begin < first_column + COLUMNS) & (begin + width > first_column):
            first_rank, num_ranks = tl.load(part + 2), tl.load(part + 3)
            b = tl.load(part + 4).to(tl.pointer_type(TYPE))
            mine = (column >= begin) & (column < begin + width)
            update = tl.zeros((ROWS, COLUMNS), tl.float32)
            source = hidden + (first + row)[:, None] * row_stride + first_rank
            for start in range(0, num_ranks, RANKS):
                ranks = start + tl.arange(0, RANKS)
                known = (row < count)[:, None] & (ranks < num_ranks)[None, :]
                left = tl.zeros((ROWS, RANKS), tl.float32)
                for split in tl.static_range(NUM_SPLITS):
                    left += tl.load(source + split * split_stride + ranks[None, :], known, 0.0)
                right = tl.load(
                    b + ranks[:, None] * width + (column - begin)[None, :],
                    (ranks < num_ranks)[:, None] & mine[None, :],
                    0.0,
                )
                update = tl.dot(
                    left.to(TYPE).to(DOT), right.to(DOT), update, input_precision="ieee"
                )
            # Not added to the other members' numbers: an overflow here would make them NaN.
            total = tl.where(mine[None, :], update, total)
            written = written | mine
    known = (row < count)[:, None] & written[None, :]
    target = out + (first + row)[:, None] * out_stride + column[None, :]
    value = tl.load(target, known, 0.0).to(tl.float32) + total
    if scale != 0:
        factor = tl.load(scale.to(tl.pointer_type(TYPE)) + column, column < num_columns, 0.0)
        value = value * factor.to(tl.float32)[None, :]
    if shift != 0:
        summand = tl.load(shift.to(tl.pointer_type(TYPE)) + column, column < num_columns, 0.0)
        value = value + summand.to(tl.float32)[None, :]
    tl.store(target, value.to(TYPE), known)
