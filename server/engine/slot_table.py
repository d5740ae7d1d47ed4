"""Where the low-rank factors of every adapter in a device slot lie, in one table that stays."""

import torch

from server.engine.placing import PlacedAdapter
from server.kernels import FIELDS


class SlotTable:
    """Rows of `describe`, one for each adapter. Row 0 is for rows of a batch that have none."""

    def __init__(self, num_slots: int, num_groups: int, device: torch.device) -> None:
        self._host = torch.zeros(1 + num_slots, num_groups, FIELDS, dtype=torch.int64)
        if device.type == "cuda":
            self._host = self._host.pin_memory()
        self.rows = torch.zeros_like(self._host, device=device)
        """[1 + slots, groups, fields], on the device. Its memory never changes."""
        self._free = list(range(num_slots, 0, -1))
        self._slots: dict[PlacedAdapter, int] = {}

    def slot(self, placed: PlacedAdapter) -> int:
        """The adapter's row, written first if it is new here. The copy runs on the step's stream,
        behind the last step that may have read what was there."""
        slot = self._slots.get(placed)
        if slot is None:
            slot = self._slots[placed] = self._free.pop()
            self._host[slot] = torch.from_numpy(placed.updates)
            self.rows[slot].copy_(self._host[slot], non_blocking=True)
        return slot

    def forget(self, placed: PlacedAdapter) -> None:
        """Gives the row of an adapter that has left its slot to the next one."""
        slot = self._slots.pop(placed, None)
        if slot is not None:
            self._free.append(slot)
