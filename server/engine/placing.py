"""From an adapter's tensors in host memory to the form that steps run on the device."""

import copy
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from server.adapters.weights import (
    AdapterWeights,
    EmbeddingChange,
    LinearChange,
    LowRank,
    Replacement,
    tensors_of,
)
from server.engine.adapter_copy import AdapterCopy
from server.kernels import Affine, Changes, Detour, EmbeddingTable, LoraGroup, Norm, describe
from server.models.decoder import Decoder
from server.models.layers import LinearGroup

# Of B matrices that are scaled together: large ones gain nothing, and take memory meanwhile.
_VALUES_AT_ONCE = 1 << 21
# What added tokens are padded to in the output head.
_WIDTH_MULTIPLE = 64

Key = tuple[str, str]
"""(name, version) of an adapter."""


@dataclass(eq=False)
class PlacedAdapter:
    """An adapter in a slot: `groups` hold its low-rank updates, `changes` what else it changes,
    `embeddings` [n, hidden] its virtual tokens, `prefix` [layers, n, 2, K, D] their states where
    it brings those, `head` [labels, hidden] its classifier in float32.

    `serial` is from 1, another for each placing, once it is in a slot.
    """

    key: Key
    groups: dict[int, LoraGroup]
    changes: Changes | None
    embeddings: torch.Tensor | None
    updates: npt.NDArray[np.int64]
    """`groups` and `fused` as kernels read them."""
    rank: int = 0
    """Largest LoRA rank."""
    serial: int = 0
    num_users: int = 0
    prefix: torch.Tensor | None = None
    head: torch.Tensor | None = None
    fused: dict[int, Affine] = field(default_factory=dict)
    """By group index: what kernels apply along with the low-rank updates. Not in `changes`."""

    @property
    def is_low_rank(self) -> bool:
        """Whether what is fused changes only outputs that are updated too."""
        return all(
            index in self.groups and affine.input_scale is None
            for index, affine in self.fused.items()
        )

    def changes_group(self, index: int) -> bool:
        """Whether it changes linears of the group."""
        if index in self.groups or index in self.fused:
            return True
        changes = self.changes
        return changes is not None and (index in changes.affine or index in changes.detours)


class Placer:
    """Makes the device form of adapters. Safe from any thread.

    With `fuses_affine` the kernels apply factors and summands of a group's numbers themselves,
    except where a member takes a detour, which comes between update and factor.
    """

    def __init__(
        self,
        decoder: Decoder,
        dtype: torch.dtype,
        device: torch.device,
        *,
        fuses_affine: bool = False,
    ) -> None:
        self._groups = decoder.groups
        self._norms = decoder.norms
        self._embedding = decoder.embedding
        self._dtype = dtype
        self._device = device
        self._fuses_affine = fuses_affine
        self._copy = AdapterCopy((), device)

    def num_bytes(self, weights: AdapterWeights) -> int:
        """What the device form of `weights` takes, at most: its values in the base's type, and a
        scale and a shift of a whole group's outputs where one of its linears has any. Norms and
        the classifier are in float32, token ids in 8 bytes."""
        count = weights.num_values
        if weights.vocabulary is not None:
            count += _WIDTH_MULTIPLE * (self._embedding.weight.shape[1] + 1)
        for group in self._groups:
            changes = (weights.linears.get(name) for name in group.names)
            if not all(change is None or change.is_low_rank for change in changes):
                count += 2 * group.columns[-1].stop
        size = count * self._dtype.itemsize
        # A norm has both, where its adapter has one of them.
        wide = sum(2 * len(norm.weight) for norm in self._norms if norm.path in weights.norms)
        if weights.classifier is not None:
            wide += weights.classifier.weight.numel()
        rows = [change.rows for change in weights.linears.values()]
        rows += [weights.embedding.rows] if weights.embedding is not None else []
        ids = sum(len(row.token_ids) for row in rows if row is not None)
        return size + wide * torch.float32.itemsize + ids * torch.int64.itemsize

    def place(self, key: Key, weights: AdapterWeights) -> PlacedAdapter:
        """The device form of `weights`, which were checked against the base."""
        one = copy.copy(self)
        if self._device.type != "cpu":
            one._copy = AdapterCopy(tensors_of(weights), self._device)
        return one._place(key, weights)

    def _place(self, key: Key, weights: AdapterWeights) -> PlacedAdapter:
        scaled = self._scaled(weights)
        lora: dict[int, LoraGroup] = {}
        affine: dict[int, Affine] = {}
        detours: dict[int, tuple[Detour, ...]] = {}
        for group in self._groups:
            members = [
                (columns, weights.linears[name])
                for name, columns in zip(group.names, group.columns, strict=True)
                if name in weights.linears
            ]
            low_rank = [
                (columns, change.low_rank.a, scaled[name])
                for name, columns in zip(group.names, group.columns, strict=True)
                if (change := weights.linears.get(name)) is not None and change.low_rank is not None
            ]
            if low_rank:
                lora[group.index] = self._low_rank(low_rank)
            if not all(change.is_low_rank for _, change in members):
                scales, shifts = self._scales(group, members)
                common = self._common_input_scale(group, members)
                if scales is not None or shifts is not None or common is not None:
                    affine[group.index] = Affine(common, scales, shifts)
                own = self._detours(members, skip_inputs=common is not None)
                if own:
                    detours[group.index] = own
        fused: dict[int, Affine] = {}
        if self._fuses_affine:
            fused = {index: affine.pop(index) for index in list(affine) if index not in detours}
        changes = Changes(affine, detours, self._norm_changes(weights), self._table(weights))
        prompt, prefix, classifier = weights.prompt, weights.prefix, weights.classifier
        return PlacedAdapter(
            key,
            lora,
            changes if changes != Changes() else None,
            None if prompt is None else self._to_device(prompt),
            describe(lora, len(self._groups), fused),
            weights.rank,
            prefix=None if prefix is None else self._to_device(prefix),
            head=None if classifier is None else self._copy.own(classifier.weight, torch.float32),
            fused=fused,
        )

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._copy.own(tensor, self._dtype)

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        """Not to be kept as it is."""
        return self._copy.part(tensor)

    def _low_rank(self, members: Sequence[tuple[slice, torch.Tensor, torch.Tensor]]) -> LoraGroup:
        """From the columns, A, and B as `_scaled` makes it, of each linear."""
        pieces = []
        parts: list[tuple[slice, slice, torch.Tensor]] = []
        rows = 0
        for columns, a, b in members:
            # Put together below, which copies them.
            pieces.append(
                self._moved(a).to(self._dtype) if len(members) > 1 else self._to_device(a)
            )
            parts.append((columns, slice(rows, rows + b.shape[0]), b))
            rows += b.shape[0]
        a = torch.cat(pieces) if len(pieces) > 1 else pieces[0].contiguous()
        return LoraGroup(a, tuple(parts))

    def _scaled(self, weights: AdapterWeights) -> dict[str, torch.Tensor]:
        """B times the scaling, transposed [r, out], in the base's type, by module path.

        Those alike are made at once: an adapter has hundreds, each so small that its operations
        would cost more than its numbers.
        """
        alike = defaultdict[tuple[torch.Size, torch.dtype, float], list[tuple[str, LowRank]]](list)
        for path, change in weights.linears.items():
            if (update := change.low_rank) is not None:
                alike[update.b.shape, update.b.dtype, update.scaling].append((path, update))
        found: dict[str, torch.Tensor] = {}
        for (shape, dtype, scaling), members in alike.items():
            count = max(1, _VALUES_AT_ONCE // shape.numel())
            for begin in range(0, len(members), count):
                some = members[begin : begin + count]
                b = torch.stack([self._moved(update.b) for _, update in some])
                # The same bits: the product is made in float32 and then rounded either way.
                b = b * scaling if dtype == self._dtype else (b.float() * scaling).to(self._dtype)
                made = b.transpose(1, 2).contiguous().unbind()
                found |= zip((path for path, _ in some), made, strict=True)
        return found

    def _scales(
        self, group: LinearGroup, members: Sequence[tuple[slice, LinearChange]]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """(scale, shift) of the group's outputs in the base's type; None where nothing changes."""
        size = group.columns[-1].stop
        scale = torch.ones(size, device=self._device)
        shift = torch.zeros(size, device=self._device)
        bias = group.weight.bias
        for columns, change in members:
            own = torch.zeros(()) if bias is None else bias[columns].float()
            if change.bias is not None:
                shift[columns] = self._moved(change.bias).float() - own
            if change.magnitude is not None:
                scale[columns] = self._dora_scale(group, columns, change)
                # The base's bias is outside of what the magnitude scales.
                shift[columns] += (1 - scale[columns]) * own
            if change.output_scale is not None:
                scale[columns] = self._moved(change.output_scale).float()
            if change.shift is not None:
                shift[columns] += self._moved(change.shift).float()
        scaled, shifted = bool((scale != 1).any()), bool((shift != 0).any())
        return (
            scale.to(self._dtype) if scaled else None,
            shift.to(self._dtype) if shifted else None,
        )

    def _dora_scale(self, group: LinearGroup, columns: slice, change: LinearChange) -> torch.Tensor:
        update = change.low_rank
        assert update is not None
        assert change.magnitude is not None
        weight = group.weight.dequantized()[columns].float()
        a, b = self._moved(update.a).float(), self._moved(update.b).float()
        changed = torch.addmm(weight, b, a, alpha=update.scaling)
        norm: torch.Tensor = torch.linalg.vector_norm(changed, dim=1)
        return self._moved(change.magnitude).float() / norm

    def _common_input_scale(
        self, group: LinearGroup, members: Sequence[tuple[slice, LinearChange]]
    ) -> torch.Tensor | None:
        """The factor of the whole group's input, where all its linears have the same one."""
        scales = [change.input_scale for _, change in members]
        first = scales[0]
        if first is None or len(members) < len(group.names):
            return None
        same = all(scale is not None and torch.equal(scale, first) for scale in scales)
        return self._to_device(first) if same else None

    def _detours(
        self, members: Sequence[tuple[slice, LinearChange]], *, skip_inputs: bool
    ) -> tuple[Detour, ...]:
        found = []
        for columns, change in members:
            if change.replacement is not None:
                found.append(self._replaced(columns, change.replacement))
            elif change.rows is not None:
                token_ids = self._copy.own(change.rows.token_ids, torch.int64)
                weight = self._to_device(change.rows.weight)
                found.append(Detour(columns.start + token_ids, weight=weight))
            elif change.input_scale is not None and not skip_inputs:
                found.append(Detour(columns, self._to_device(change.input_scale)))
        return tuple(found)

    def _replaced(self, columns: slice, replacement: Replacement) -> Detour:
        weight, bias = self._to_device(replacement.weight), replacement.bias
        own_bias = None if bias is None else self._to_device(bias)
        num_added = len(weight) - (columns.stop - columns.start)
        if num_added:
            # Elementwise work on the logits runs in full vectors, as on the base's own: whose
            # last bits must not depend on their place in one.
            padding = -num_added % _WIDTH_MULTIPLE
            weight = F.pad(weight, (0, 0, 0, padding))
            own_bias = None if own_bias is None else F.pad(own_bias, (0, padding))
            columns = slice(columns.start, columns.start + len(weight))
        return Detour(columns, None, weight, own_bias)

    def _norm_changes(self, weights: AdapterWeights) -> dict[int, Norm]:
        found = {}
        for norm in self._norms:
            change = weights.norms.get(norm.path)
            if change is None:
                continue
            weight = norm.weight if change.weight is None else change.weight
            bias = norm.bias if change.bias is None else change.bias
            # Rounded to the base's type first, as it would hold them.
            scale = norm.offset + self._to_device(weight).float()
            shift = None if bias is None else self._to_device(bias).float()
            found[norm.index] = Norm(scale, shift)
        return found

    def _table(self, weights: AdapterWeights) -> EmbeddingTable | None:
        change = weights.embedding
        if change is None:
            return None
        scale = self._embedding.factor
        weight = a = b = factor = token_ids = rows = None
        if change.replacement is not None:
            weight = self._to_device(change.replacement) * scale
        if change.low_rank is not None:
            a = self._to_device(change.low_rank.a.t()).contiguous()
            b = self._moved(change.low_rank.b).float().t() * change.low_rank.scaling
            if change.magnitude is not None:
                factor = self._embedding_factor(change)
            b = self._to_device(b * scale).contiguous()
        if change.rows is not None:
            token_ids = self._copy.own(change.rows.token_ids, torch.int64)
            rows = self._to_device(change.rows.weight) * scale
        return EmbeddingTable(weight, a, b, factor, token_ids, rows)

    def _embedding_factor(self, change: EmbeddingChange) -> torch.Tensor:
        update, own = change.low_rank, change.replacement
        assert update is not None
        assert change.magnitude is not None
        weight = self._embedding.weight if own is None else self._to_device(own)
        a, b = self._moved(update.a).float(), self._moved(update.b).float()
        changed = torch.addmm(weight.float(), a.t(), b.t(), alpha=update.scaling)
        norm: torch.Tensor = torch.linalg.vector_norm(changed, dim=0)
        return self._to_device(self._moved(change.magnitude).float() / norm)
