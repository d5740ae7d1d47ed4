"""The native kernels with tables of slots, as kernels on CUDA have them."""

import torch

from server.kernels import AdapterRows, Native, SlotLimits


class NativeSlots(Native):
    """Reads tiles and table whenever the rows are used."""

    tile_rows = 3

    def slot_rows(
        self, table: torch.Tensor, limits: SlotLimits, dtype: torch.dtype, tiles: torch.Tensor
    ) -> AdapterRows:
        return _SlotRows(self, table, limits, dtype, tiles)

    def takes(self, x: torch.Tensor) -> bool:
        # The product and the updates apart.
        return False


class _SlotRows:
    def __init__(
        self,
        native: NativeSlots,
        table: torch.Tensor,
        limits: SlotLimits,
        dtype: torch.dtype,
        tiles: torch.Tensor,
    ) -> None:
        self._native, self._table, self._limits = native, table, limits
        self._dtype, self._tiles = dtype, tiles

    def add(self, group: int, x: torch.Tensor, out: torch.Tensor) -> None:
        ranks, parts, columns = (limit[group] for limit in self._limits)
        for slot, first, count in self._tiles.tolist():
            updates = self._table[slot].numpy()
            rank, num_parts, *fields = updates[group][1:]
            if not count or not rank:
                continue
            assert rank <= ranks, "a step was put into a bucket of lower ranks"
            assert num_parts <= parts
            assert max(fields[1::5]) <= columns
            assert 0 <= first < first + count <= len(x)
            assert count <= NativeSlots.tile_rows
            rows = self._native.adapter_rows([0, count], [updates], self._dtype)
            rows.add(group, x[first : first + count], out[first : first + count])
