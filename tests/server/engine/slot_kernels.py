"""The native kernels with tables of slots, as kernels on CUDA have them."""

import numpy as np
import numpy.typing as npt
import torch

from server.kernels import AdapterRows, Native


class NativeSlots(Native):
    """Reads tiles and table whenever the rows are used."""

    tile_rows = 3

    def slot_rows(
        self,
        table: torch.Tensor,
        max_ranks: npt.NDArray[np.int64],
        dtype: torch.dtype,
        tiles: torch.Tensor,
    ) -> AdapterRows:
        return _SlotRows(self, table, max_ranks, dtype, tiles)

    def takes(self, x: torch.Tensor) -> bool:
        # The product and the updates apart.
        return False


class _SlotRows:
    def __init__(
        self,
        native: NativeSlots,
        table: torch.Tensor,
        max_ranks: npt.NDArray[np.int64],
        dtype: torch.dtype,
        tiles: torch.Tensor,
    ) -> None:
        self._native, self._table, self._max_ranks = native, table, max_ranks
        self._dtype, self._tiles = dtype, tiles

    def scale_input(self, group: int, x: torch.Tensor) -> torch.Tensor:
        return x

    def add(self, group: int, x: torch.Tensor, out: torch.Tensor) -> None:
        for slot, first, count in self._tiles.tolist():
            updates = self._table[slot].numpy()
            rank = updates[group][1]
            if not count or not rank:
                continue
            assert rank <= self._max_ranks[group], "a step was put into a bucket of lower ranks"
            assert 0 <= first < first + count <= len(x)
            assert count <= NativeSlots.tile_rows
            rows = self._native.adapter_rows([0, count], [updates], self._dtype)
            rows.add(group, x[first : first + count], out[first : first + count])
