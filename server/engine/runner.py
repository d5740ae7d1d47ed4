"""Runs one packed step through the model."""

import torch

from server.engine.batch import Batch, block_tables
from server.engine.kv_cache import KVCache
from server.engine.lora_stack import LoraStacker
from server.engine.slots import PlacedAdapter
from server.kernels import AttentionStep, LongChunk, ShortRows
from server.models.loader import LoadedBase


class Runner:
    """Turns a batch into logits, reading and writing the cache."""

    def __init__(self, base: LoadedBase, cache: KVCache) -> None:
        self._base = base
        self._cache = cache
        self._stacker = LoraStacker(base.device)
        self._scratch = torch.empty(0, dtype=base.dtype, device=base.device)

    def run(self, batch: Batch) -> torch.Tensor:
        """Logits [rows that need them, vocabulary], in the order of the batch's chunks."""
        self._cache.flush()
        context = self._base.decoder.context
        context.attention = self._attention(batch)
        context.lora = self._stacker.step(*_adapters(batch))
        try:
            return self._base.decoder.forward(
                batch.token_ids, batch.positions, batch.logit_rows, batch.virtual
            )
        finally:
            context.attention = context.lora = None

    def _attention(self, batch: Batch) -> AttentionStep:
        device = self._base.device
        block_size = self._cache.block_size
        short = tuple(
            ShortRows(
                None if rows is None else torch.tensor(rows, device=device),
                torch.from_numpy(tables).to(device),
                torch.tensor(lengths, device=device),
            )
            for rows, tables, lengths in block_tables(
                batch.chunks[: batch.num_short_chunks], block_size
            )
        )
        long = []
        row = batch.num_short_rows
        for chunk in batch.chunks[batch.num_short_chunks :]:
            end = chunk.start + chunk.count
            blocks = chunk.sequence.blocks[: -(-end // block_size)]
            long.append(
                LongChunk(
                    slice(row, row + chunk.count), chunk.start, torch.tensor(blocks, device=device)
                )
            )
            row += chunk.count
        gathered = max((s.tables.numel() for s in short), default=0)
        gathered = max(gathered, max((len(c.blocks) for c in long), default=0))
        size = gathered * self._cache.layers[0][0].numel()
        if size > self._scratch.numel():
            self._scratch = self._scratch.new_empty(size + size // 2)
        return AttentionStep(
            self._cache.layers, batch.write_index, short, tuple(long), self._scratch
        )


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
