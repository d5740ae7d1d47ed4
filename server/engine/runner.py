"""Runs one packed step through the model."""

import torch

from server.engine.batch import Batch, Layout, block_tables, row_tables, seen_blocks
from server.engine.change_stack import ChangeStacker
from server.engine.decode_graphs import DecodeGraphs
from server.engine.kv_cache import NULL_BLOCK, KVCache
from server.engine.lora_stack import LoraStacker
from server.engine.placing import PlacedAdapter
from server.engine.sequence import Chunk
from server.kernels import (
    AttentionStep,
    FlashInfer,
    LongChunk,
    PlannedAttention,
    ShortRows,
    page_plan,
    to_device,
)
from server.models.loader import LoadedBase


class Runner:
    """Turns a batch into logits and final hidden states, reading and writing the cache."""

    def __init__(
        self,
        base: LoadedBase,
        cache: KVCache,
        layout: Layout,
        graphs: DecodeGraphs | None = None,
    ) -> None:
        """`graphs` runs the batches that it takes."""
        self._base = base
        self._graphs = graphs
        self._cache = cache
        self._layout = layout
        # Deterministic sums: the long chunks' order of summation for all rows.
        self._kernels = None if layout.key_sizes else base.kernels
        self._stacker = LoraStacker(base.device, base.dtype, self._kernels, layout.row_multiple)
        self._changes = ChangeStacker(base.device, layout.row_multiple)
        self._scratch = torch.empty(0, dtype=base.dtype, device=base.device)

    def run(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [num_logit_rows, vocabulary, or more where an adapter adds tokens: columns behind
        a row's own vocabulary mean nothing] and final hidden states [num_state_rows, hidden], in
        the order of the batch's chunks."""
        self._cache.flush()
        if self._graphs is not None and (replayed := self._graphs.run(batch)) is not None:
            return replayed, replayed.new_empty(0)
        batch = batch.to(self._base.device)
        context, head = self._base.decoder.context, self._base.decoder.head_context
        context.attention = self._attention(batch)
        short, long = _adapters(batch)
        context.lora = self._stacker.step(short, long)
        context.changes = self._changes.step(short, long, len(batch.token_ids))
        self._prepare_head(batch)
        try:
            logits, states = self._base.decoder.forward(
                batch.token_ids, batch.positions, batch.logit_rows, batch.virtual, batch.state_rows
            )
        finally:
            context.attention = context.lora = context.changes = None
            head.lora = head.changes = None
        return logits[: batch.num_logit_rows], states

    def forget(self, placed: PlacedAdapter) -> None:
        """Keeps nothing of an adapter that has left its slot."""
        self._stacker.forget(placed)
        self._changes.forget(placed)
        if self._graphs is not None:
            self._graphs.forget(placed)

    def _prepare_head(self, batch: Batch) -> None:
        """Sets what the output head needs: it sees the rows that have logits alone."""
        head = self._base.decoder.head
        if head is None or not any(
            placed is not None and placed.changes_group(head.index)
            for placed in dict.fromkeys(chunk.sequence.placed for chunk in batch.chunks)
        ):
            return
        runs: list[tuple[PlacedAdapter | None, slice]] = []
        row = 0
        for chunk in batch.chunks:
            placed, end = chunk.sequence.placed, row + chunk.num_logit_rows
            if runs and runs[-1][0] is placed:
                runs[-1] = placed, slice(runs[-1][1].start, end)
            elif end > row:
                runs.append((placed, slice(row, end)))
            row = end
        context = self._base.decoder.head_context
        context.lora = self._stacker.step((), runs)
        context.changes = self._changes.step((), runs, len(batch.logit_rows))

    def _attention(self, batch: Batch) -> AttentionStep:
        kernels = self._kernels
        if self._base.flashinfer is not None:
            return AttentionStep(
                caches=self._cache.layers,
                write_index=batch.write_index,
                short=(),
                chunks=(),
                scratch=self._scratch,
                kernels=kernels,
                planned=self._planned(self._base.flashinfer, batch),
            )
        short = self._short_rows(batch.chunks[: batch.num_short_chunks])
        long = self._long_chunks(batch)
        gathered = [c.blocks.numel() for c in long]
        if kernels is None:
            gathered += [s.tables.numel() for s in short]
        size = max(gathered, default=0) * self._cache.layers[0][0].numel()
        if size > self._scratch.numel():
            self._scratch = self._scratch.new_empty(size + size // 2)
        return AttentionStep(
            caches=self._cache.layers,
            write_index=batch.write_index,
            short=short,
            chunks=tuple(long),
            scratch=self._scratch,
            query_multiple=self._layout.row_multiple,
            kernels=kernels,
        )

    def _planned(self, library: FlashInfer, batch: Batch) -> PlannedAttention:
        block_size, num_short = self._layout.block_size, batch.num_short_chunks
        single = seen_blocks(batch.chunks[:num_short])
        chunks = batch.chunks[num_short:]
        long = [(c.start + c.count, c.sequence.blocks) for c in chunks]
        return library.step(
            page_plan(single, block_size) if single else None,
            page_plan(long, block_size, [c.count for c in chunks]) if long else None,
        )

    def _short_rows(self, chunks: tuple[Chunk, ...]) -> tuple[ShortRows, ...]:
        device = self._base.device
        if self._kernels is not None:
            # Read in place: no row is padded to another's length.
            if not chunks:
                return ()
            tables, lengths = row_tables(chunks, self._layout.block_size)
            return (ShortRows(None, *to_device(device, tables, lengths)),)
        buckets = block_tables(chunks, self._layout)
        moved = iter(
            to_device(
                device,
                *(
                    tensor
                    for rows, tables, lengths in buckets
                    for tensor in (
                        torch.tensor(rows or [], dtype=torch.int64),
                        torch.from_numpy(tables),
                        torch.tensor(lengths),
                    )
                ),
            )
        )
        return tuple(
            ShortRows(None if rows is None else own, tables, lengths)
            for (rows, _, _), own, tables, lengths in zip(buckets, moved, moved, moved, strict=True)
        )

    def _long_chunks(self, batch: Batch) -> list[LongChunk]:
        layout = self._layout
        parts: list[tuple[slice, int]] = []
        tables: list[torch.Tensor] = []
        row = batch.num_short_rows
        for chunk in batch.chunks[batch.num_short_chunks :]:
            for start, end in layout.split(chunk.start, chunk.start + chunk.count):
                blocks = chunk.sequence.blocks[: -(-end // layout.block_size)]
                blocks += [NULL_BLOCK] * (layout.num_blocks(end) - len(blocks))
                tables.append(torch.tensor(blocks))
                parts.append((slice(row, row + end - start), start))
                row += end - start
        moved = to_device(self._base.device, *tables)
        return [LongChunk(*part, table) for part, table in zip(parts, moved, strict=True)]


def _adapters(
    batch: Batch,
) -> tuple[list[PlacedAdapter | None], list[tuple[PlacedAdapter | None, slice]]]:
    """Each short row's adapter, and the long chunks' with their rows."""
    short = [
        chunk.sequence.placed
        for chunk in batch.chunks[: batch.num_short_chunks]
        for _ in range(chunk.count)
    ]
    long: list[tuple[PlacedAdapter | None, slice]] = []
    row = batch.num_short_rows
    for chunk in batch.chunks[batch.num_short_chunks :]:
        long.append((chunk.sequence.placed, slice(row, row + chunk.count)))
        row += chunk.count
    return short, long
