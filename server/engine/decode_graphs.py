"""Steps that only decode, run from memory that stays where it is, and so captured and replayed.

Launching hundreds of small kernels one by one takes the host longer than the device needs for
them. What a step launches depends on few numbers (`Bucket`); steps are padded to the next larger
ones, and each bucket gets buffers and a graph of its own.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from server.engine.batch import Batch, round_up, row_tables, seen_blocks
from server.engine.capture import Capture, Replay
from server.engine.kv_cache import NULL_BLOCK, KVCache
from server.engine.placing import PlacedAdapter
from server.engine.slot_table import SlotTable
from server.engine.static_step import Bucket, StaticStep, Tile
from server.kernels import SlotKernels, page_plan
from server.models.loader import LoadedBase

logger = logging.getLogger(__name__)

# Buckets that are kept, the most recently used.
_MAX_BUCKETS = 64
_MIN_BLOCKS = 8
_MIN_RANK = 16
_ROW_MULTIPLE = 8


def bucket_of(
    num_rows: int, num_blocks: int, ranks: Sequence[int] = (), *, max_rows: int, max_blocks: int
) -> Bucket:
    """The bucket of a step of `num_rows`, the longest of which sees `num_blocks`. `ranks` are the
    largest of its adapters by group; none, or all 0: no adapters.

    Rows are padded to a power of two or a multiple of 8, blocks and ranks to powers of two, rows
    and blocks to `max_rows` and `max_blocks` at most.
    """
    rows = _power(num_rows) if num_rows <= _ROW_MULTIPLE else round_up(num_rows, _ROW_MULTIPLE)
    blocks = max(_MIN_BLOCKS, _power(num_blocks))
    padded = tuple(max(_MIN_RANK, _power(rank)) if rank else 0 for rank in ranks)
    return Bucket(
        max(num_rows, min(rows, max_rows)),
        max(num_blocks, min(blocks, max_blocks)),
        padded if any(padded) else (),
    )


class DecodeGraphs:
    """The buckets of one engine. Not thread-safe."""

    def __init__(
        self,
        base: LoadedBase,
        cache: KVCache,
        capture: Capture,
        *,
        num_slots: int,
        max_rows: int,
        max_blocks: int,
    ) -> None:
        """`max_blocks` are of one sequence, `num_slots` adapters on the device at a time."""
        self._base = base
        self._cache = cache
        self._capture = capture
        self._max_rows, self._max_blocks = max_rows, max_blocks
        self._kernels = base.kernels if isinstance(base.kernels, SlotKernels) else None
        groups = base.decoder.groups
        self._table = SlotTable(num_slots, len(groups), base.device)
        # The least recently used first.
        self._steps: OrderedDict[Bucket, StaticStep] = OrderedDict()
        self._can_capture = True
        self.num_captured = 0
        """Graphs made so far."""

    def run(self, batch: Batch) -> torch.Tensor | None:
        """Logits [rows, vocabulary] in the order of the batch's chunks, valid until the next run.

        None if the batch does more than decode, or its adapters change more than linears by
        low-rank updates, with their scale and shift, or since a capture has failed. The cache must
        have been flushed.
        """
        if not self._can_capture or not self._takes(batch):
            return None
        adapters = [chunk.sequence.placed for chunk in batch.chunks]
        tables, lengths = row_tables(batch.chunks, self._cache.block_size)
        tiles, ranks = self._tiles(adapters), self._ranks(adapters)
        sizes = {"max_rows": self._max_rows, "max_blocks": self._max_blocks}
        step = self._step(bucket_of(len(adapters), tables.shape[1], ranks, **sizes))
        step.buffers.fill(batch, tables, lengths, tiles)
        if step.planned is not None:
            padding = [(1, [NULL_BLOCK])] * (step.bucket.rows - len(adapters))
            seen = [*seen_blocks(batch.chunks), *padding]
            step.planned.plan(page_plan(seen, self._cache.block_size))
        return step.run()[: len(adapters)]

    def forget(self, placed: PlacedAdapter) -> None:
        """Keeps nothing of an adapter that has left its slot."""
        self._table.forget(placed)

    def _takes(self, batch: Batch) -> bool:
        if batch.virtual is not None or len(batch.state_rows):
            return False
        if any(chunk.count > 1 or not chunk.num_logit_rows for chunk in batch.chunks):
            return False
        distinct = dict.fromkeys(chunk.sequence.placed for chunk in batch.chunks)
        return all(
            placed is None
            or (
                placed.changes is None
                and placed.is_low_rank
                and (self._kernels is not None or not placed.groups)
            )
            for placed in distinct
        )

    def _tiles(self, adapters: Sequence[PlacedAdapter | None]) -> list[Tile]:
        """The runs of rows of one adapter, in parts that one program of the kernels takes."""
        found: list[Tile] = []
        last: PlacedAdapter | None = None
        for row, placed in enumerate(adapters):
            if placed is None or not placed.groups:
                continue
            assert self._kernels is not None
            if placed is last and found[-1][2] < self._kernels.tile_rows:
                slot, first, count = found[-1]
                found[-1] = slot, first, count + 1
            else:
                found.append((self._table.slot(placed), row, 1))
            last = placed
        return found

    def _ranks(self, adapters: Sequence[PlacedAdapter | None]) -> list[int]:
        own = [p.updates[:, 1] for p in dict.fromkeys(adapters) if p is not None and p.groups]
        return [int(rank) for rank in np.max(own, axis=0)] if own else []

    def _step(self, bucket: Bucket) -> StaticStep:
        step = self._steps.get(bucket)
        if step is None:
            if len(self._steps) >= _MAX_BUCKETS:
                self._steps.popitem(last=False)
            rows_of = None
            if bucket.ranks:
                assert self._kernels is not None
                ranks = np.array(bucket.ranks)
                rows_of = partial(
                    self._kernels.slot_rows, self._table.rows, ranks, self._base.dtype
                )
            step = StaticStep(self._base, self._cache, bucket, rows_of, self._captured)
            self._steps[bucket] = step
        self._steps.move_to_end(bucket)
        return step

    def _captured(self, step: StaticStep) -> tuple[torch.Tensor, Replay] | None:
        started = time.perf_counter()
        try:
            found = self._capture(step.forward)
        except RuntimeError:
            # Such as a device without memory for another graph. No other is tried: each would ask
            # for memory too, and nothing is known of what a failed one leaves of the shared pool.
            self._can_capture = False
            logger.exception("%s cannot be captured: no more graphs", step.bucket)
            return None
        self.num_captured += 1
        logger.info("captured %s in %.2f s", step.bucket, time.perf_counter() - started)
        return found


def _power(number: int) -> int:
    """The smallest power of two from `number` on."""
    return 1 << (number - 1).bit_length()
