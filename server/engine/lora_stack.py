"""The adapters of one step: which rows run as segments, and the stack for those that are masked."""

from collections.abc import Sequence

import numpy as np
import torch

from server.engine.placing import PlacedAdapter
from server.kernels import (
    Kernels,
    LoraGroup,
    LoraSegment,
    LoraStep,
    MaskedLora,
    to_device,
)

# Up to this many adapters, a pair of products each is cheaper than stacking them.
_MAX_SEGMENTS = 2
# Rows times rank of a run up to which the native kernel is cheaper than a segment's products.
_MAX_ROWS_WORK = 4096


class LoraStacker:
    """Builds each step's `LoraStep`; keeps the stack of adapters while the next steps fit it.

    Adapters are of `dtype`. With `kernels` there is no stack: every row meets its own adapter.

    With `row_multiple` above 1 every adapter runs as a segment, padded to a multiple of it.
    """

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        kernels: Kernels | None = None,
        row_multiple: int = 1,
    ) -> None:
        self._device = device
        self._dtype = dtype
        self._kernels = kernels
        self._row_multiple = row_multiple
        self._stacked: tuple[PlacedAdapter, ...] = ()
        self._groups: dict[int, LoraGroup] = {}
        # Which adapter owns each row of a group's stacked A; most groups share a layout.
        self._layouts: dict[tuple[int, ...], list[int]] = {}
        self._last: tuple[tuple[int, ...], MaskedLora] | None = None

    def step(
        self,
        short: Sequence[PlacedAdapter | None],
        long: Sequence[tuple[PlacedAdapter | None, slice]],
    ) -> LoraStep | None:
        """The adapters of a step, or None if there are none.

        `short` names each of the first rows' adapter, rows of one adapter next to each other;
        `long` are runs of further rows.
        """
        adapters = [p if p is not None and (p.groups or p.fused) else None for p in short]
        if self._kernels is not None:
            return self._own_rows(self._kernels, adapters, long)
        segments = [
            LoraSegment(rows, placed.groups) for placed, rows in long if placed and placed.groups
        ]
        distinct = [p for p in dict.fromkeys(adapters) if p is not None]
        masked = None
        if len(distinct) > _MAX_SEGMENTS and self._row_multiple == 1:
            masked = self._masked(adapters, distinct)
        else:
            for placed in distinct:
                begin = adapters.index(placed)
                rows = slice(begin, begin + adapters.count(placed))
                segments.append(LoraSegment(rows, placed.groups))
        if masked is None and not segments:
            return None
        return LoraStep(masked, tuple(segments), self._row_multiple)

    def forget(self, placed: PlacedAdapter) -> None:
        """Drops the stack if it holds the adapter."""
        if placed in self._stacked:
            self._restack([])

    def _own_rows(
        self,
        kernels: Kernels,
        adapters: Sequence[PlacedAdapter | None],
        long: Sequence[tuple[PlacedAdapter | None, slice]],
    ) -> LoraStep | None:
        segments: list[LoraSegment] = []
        # Row where each run begins, and its adapter; None where the kernel has nothing to do.
        starts: list[int] = []
        owners: list[PlacedAdapter | None] = []
        for row, placed in enumerate(adapters):
            if not owners or placed is not owners[-1]:
                starts.append(row)
                owners.append(placed)
        end = len(adapters)
        for placed, rows in long:
            end = rows.stop
            own = placed if placed is not None and (placed.groups or placed.fused) else None
            is_long = own is not None and (end - rows.start) * own.rank > _MAX_ROWS_WORK
            if own is not None and is_long and not own.fused:
                segments.append(LoraSegment(rows, own.groups))
                own = None
            starts.append(rows.start)
            owners.append(own)
        known = next((p for p in owners if p is not None), None)
        if known is None:
            return LoraStep(None, tuple(segments)) if segments else None
        nothing = np.zeros_like(known.updates)
        updates = [nothing if p is None else p.updates for p in owners]
        rows_of_step = kernels.adapter_rows([*starts, end], updates, self._dtype)
        return LoraStep(None, tuple(segments), rows=rows_of_step)

    def _masked(
        self, adapters: Sequence[PlacedAdapter | None], distinct: list[PlacedAdapter]
    ) -> MaskedLora:
        known = set(self._stacked)
        if not known.issuperset(distinct) or len(known) > 2 * len(distinct):
            self._restack(distinct)
        position = {placed: i for i, placed in enumerate(self._stacked)}
        owners = tuple(-1 if placed is None else position[placed] for placed in adapters)
        if self._last is not None and self._last[0] == owners:
            return self._last[1]
        first = adapters.index(distinct[0])
        row_owner, *layouts = to_device(
            self._device,
            torch.tensor(owners[first:]),
            *(torch.tensor(layout) for layout in self._layouts),
        )
        foreign = {}
        for layout, groups in zip(layouts, self._layouts.values(), strict=True):
            mask = row_owner.unsqueeze(1) != layout
            foreign.update(dict.fromkeys(groups, mask))
        masked = MaskedLora(slice(first, len(owners)), self._groups, foreign)
        self._last = (owners, masked)
        return masked

    def _restack(self, adapters: list[PlacedAdapter]) -> None:
        self._stacked = tuple(adapters)
        self._groups, self._layouts, self._last = {}, {}, None
        for index in sorted({index for placed in adapters for index in placed.groups}):
            self._groups[index], layout = _stack([placed.groups.get(index) for placed in adapters])
            self._layouts.setdefault(layout, []).append(index)


def _stack(adapters: Sequence[LoraGroup | None]) -> tuple[LoraGroup, tuple[int, ...]]:
    """One group's updates of several adapters, the rows of each member together, and the index
    of the adapter that owns each row."""
    by_member: dict[tuple[int, int], list[tuple[int, torch.Tensor, torch.Tensor]]] = {}
    for owner, group in enumerate(adapters):
        for columns, ranks, b in group.parts if group else ():
            assert group is not None
            member = by_member.setdefault((columns.start, columns.stop), [])
            member.append((owner, group.a[ranks], b))
    pieces: list[torch.Tensor] = []
    owners: list[int] = []
    parts = []
    for (begin, end), updates in by_member.items():
        start = len(owners)
        for owner, a, b in updates:
            pieces.append(a)
            owners.extend([owner] * len(b))
        stacked_b = torch.cat([b for _, _, b in updates])
        parts.append((slice(begin, end), slice(start, len(owners)), stacked_b))
    return LoraGroup(torch.cat(pieces), tuple(parts)), tuple(owners)
