"""One bucket's decode step: its buffers, and what runs on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from server.engine.batch import Batch
from server.engine.capture import Replay
from server.engine.kv_cache import KVCache
from server.kernels import AdapterRows, AttentionStep, FixedStep, LoraStep, ShortRows
from server.models.loader import LoadedBase

# Runs before it is captured: kernels are compiled in the first, and what comes up once is not
# worth a graph.
_RUNS_BEFORE = 2
Tile = tuple[int, int, int]
"""Row of the slot table, first row of the step, number of rows."""


@dataclass(frozen=True)
class Bucket:
    """What the launches of a decode step depend on: its rows, the cache blocks of the longest
    sequence, and the rows of A by group of linears; no ranks: no adapters."""

    rows: int
    blocks: int
    ranks: tuple[int, ...] = ()


class StaticBuffers:
    """The numbers of a step in one piece of memory on the device, filled by one copy from the host.

    Rows behind the last sequence are those of token 0 at position 0 that sees itself, in the null
    block, which nobody reads unmasked. Tiles behind the last have no rows and no adapter.
    """

    def __init__(self, rows: int, blocks: int, device: torch.device) -> None:
        self._rows = rows
        sizes = (rows, rows, rows, rows, rows * blocks, rows * 3)
        self._host = torch.zeros(sum(sizes), dtype=torch.int64)
        if device.type == "cuda":
            self._host = self._host.pin_memory()
        self._device = torch.zeros_like(self._host, device=device)
        self._host_views = self._views(self._host, sizes)
        (
            self.token_ids, self.positions, self.write_index, self.lengths, self.tables, self.tiles,
        ) = self._views(self._device, sizes)  # fmt: skip

    def fill(
        self, batch: Batch, tables: torch.Tensor, lengths: torch.Tensor, tiles: Sequence[Tile]
    ) -> None:
        """Describes `batch`; `tables` [n, blocks or fewer] and `lengths` [n] are its rows'."""
        # The last step's tokens were read before this one could begin, so its copy is done.
        self._host.zero_()
        token_ids, positions, write_index, own_lengths, own_tables, own_tiles = self._host_views
        count = len(lengths)
        token_ids[:count] = batch.token_ids
        positions[:count] = batch.positions
        write_index[:count] = batch.write_index
        own_lengths.fill_(1)[:count] = lengths
        own_tables[:count, : tables.shape[1]] = tables
        if tiles:
            own_tiles[: len(tiles)] = torch.tensor(tiles)
        self._device.copy_(self._host, non_blocking=True)

    def _views(self, memory: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
        *single, tables, tiles = memory.split(list(sizes))
        return [*single, tables.view(self._rows, -1), tiles.view(self._rows, 3)]


class StaticStep:
    """Runs a bucket's steps: as they are at first, then as one replay."""

    def __init__(
        self,
        base: LoadedBase,
        cache: KVCache,
        bucket: Bucket,
        rows_of: Callable[[torch.Tensor], AdapterRows] | None,
        capture: Callable[["StaticStep"], tuple[torch.Tensor, Replay] | None],
    ) -> None:
        """`rows_of` makes the kernels' form of tiles [rows, 3]; None: no adapters. `capture`
        records the step, or returns None where that cannot be."""
        self._decoder = base.decoder
        self._kernels = base.kernels
        self._caches = cache.layers
        self.bucket = bucket
        self.buffers = StaticBuffers(bucket.rows, bucket.blocks, base.device)
        # Allocated anew by each run: within a graph that costs nothing.
        self._scratch = torch.empty(0, dtype=base.dtype, device=base.device)
        self._logit_rows = torch.arange(bucket.rows, device=base.device)
        self._lora = None
        if rows_of is not None:
            self._lora = LoraStep(None, (), rows=rows_of(self.buffers.tiles))
        self.planned: FixedStep | None = None
        """To be told of each step's pages, where FlashInfer runs attention."""
        if base.flashinfer is not None:
            self.planned = base.flashinfer.fixed(bucket.rows, bucket.blocks)
        self._capture = capture
        self._num_runs = 0
        self._captured: tuple[torch.Tensor, Replay] | None = None

    def run(self) -> torch.Tensor:
        """Logits [rows, vocabulary] of what `buffers` describe, valid until any bucket runs."""
        self._num_runs += 1
        if self._captured is None and self._num_runs > _RUNS_BEFORE:
            self._captured = self._capture(self)
        if self._captured is None:
            return self.forward()
        logits, replay = self._captured
        replay()
        return logits

    def forward(self) -> torch.Tensor:
        """The step itself: launches on the buffers' memory alone, and reads nothing back."""
        buffers, decoder = self.buffers, self._decoder
        context, head = decoder.context, decoder.head_context
        context.attention = AttentionStep(
            caches=self._caches,
            write_index=buffers.write_index,
            short=(ShortRows(None, buffers.tables, buffers.lengths),),
            chunks=(),
            scratch=self._scratch,
            kernels=self._kernels,
            planned=self.planned,
        )
        # Every row has logits, so the head's rows are the same.
        context.lora = head.lora = self._lora
        try:
            logits, _ = decoder.forward(buffers.token_ids, buffers.positions, self._logit_rows)
        finally:
            context.attention = context.lora = head.lora = None
        return logits
