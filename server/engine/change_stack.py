"""The changes of one step beside low-rank updates: whose rows they are, and the stacked factors."""

from collections.abc import Sequence

import torch

from server.engine.placing import PlacedAdapter
from server.kernels import Affine, ChangeStep, Norm, to_device


class ChangeStacker:
    """Builds each step's `ChangeStep`; keeps the stack of factors while the next steps fit it."""

    def __init__(self, device: torch.device, row_multiple: int = 1) -> None:
        self._device = device
        self._row_multiple = row_multiple
        self._stacked: tuple[PlacedAdapter, ...] = ()
        self._affine: dict[int, Affine] = {}
        self._norms: dict[int, Norm] = {}

    def step(
        self,
        short: Sequence[PlacedAdapter | None],
        long: Sequence[tuple[PlacedAdapter | None, slice]],
        num_rows: int,
    ) -> ChangeStep | None:
        """The changes of a step of `num_rows`, or None if there are none.

        `short` names each of the first rows' adapter, rows of one adapter next to each other;
        `long` are runs of further rows.
        """
        runs: list[tuple[PlacedAdapter, int, int]] = []
        for row, placed in enumerate(short):
            if placed is None or placed.changes is None:
                continue
            if runs and runs[-1][0] is placed and runs[-1][2] == row:
                runs[-1] = placed, runs[-1][1], row + 1
            else:
                runs.append((placed, row, row + 1))
        runs += [(p, r.start, r.stop) for p, r in long if p is not None and p.changes is not None]
        if not runs:
            return None
        distinct = tuple(dict.fromkeys(placed for placed, _, _ in runs))
        known = set(self._stacked)
        if not known.issuperset(distinct) or len(known) > 2 * len(distinct):
            self._restack(distinct)
        places = {placed: i + 1 for i, placed in enumerate(self._stacked)}
        index = torch.zeros(num_rows, dtype=torch.int64)
        for placed, start, stop in runs:
            index[start:stop] = places[placed]
        return ChangeStep(
            tuple((slice(start, stop), p.changes) for p, start, stop in runs if p.changes),
            to_device(self._device, index)[0],
            self._affine,
            self._norms,
            self._row_multiple,
        )

    def forget(self, placed: PlacedAdapter) -> None:
        """Drops the stack if it holds the adapter."""
        if placed in self._stacked:
            self._restack(())

    def _restack(self, adapters: tuple[PlacedAdapter, ...]) -> None:
        self._stacked = adapters
        changes = [placed.changes for placed in adapters]
        affines = [change.affine if change is not None else {} for change in changes]
        groups = sorted({group for affine in affines for group in affine})
        self._affine = {
            group: _stack([affine.get(group, Affine()) for affine in affines]) for group in groups
        }
        norms = [change.norms if change is not None else {} for change in changes]
        self._norms = {
            index: _stack_norms([norm.get(index) for norm in norms])
            for index in sorted({index for norm in norms for index in norm})
        }


def _stack(affines: Sequence[Affine]) -> Affine:
    return Affine(
        _rows([affine.input_scale for affine in affines], 1.0),
        _rows([affine.scale for affine in affines], 1.0),
        _rows([affine.shift for affine in affines], 0.0),
    )


def _stack_norms(norms: Sequence[Norm | None]) -> Norm:
    scale = _rows([None if norm is None else norm.scale for norm in norms], 1.0)
    assert scale is not None
    changed = torch.tensor([False, *(norm is not None for norm in norms)], device=scale.device)
    shift = _rows([None if norm is None else norm.shift for norm in norms], 0.0)
    return Norm(scale, shift, changed)


def _rows(parts: Sequence[torch.Tensor | None], neutral: float) -> torch.Tensor | None:
    like = next((part for part in parts if part is not None), None)
    if like is None:
        return None
    nothing = torch.full_like(like, neutral)
    return torch.stack([nothing, *(nothing if part is None else part for part in parts)])
