"""Packs the chunks of a step into one row of tokens."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from server.engine.sequence import Chunk

# Chunks of up to this many rows run as single queries, all sequences at once.
_SHORT_ROWS = 8
# In deterministic mode a step's rows are padded to a multiple of this: float32 products of few
# rows take other kernels, with other last bits.
_ROW_MULTIPLE = 16


@dataclass(frozen=True)
class Batch:
    """One step's rows [T]: short chunks first, those of one adapter next to each other.

    `tables[i]` are the blocks of short row i, in position order; `lengths[i]` the positions it
    sees. `logit_rows` are the rows whose logits are needed, in the order of `chunks`.
    """

    chunks: tuple[Chunk, ...]
    num_short_chunks: int
    num_short_rows: int
    token_ids: torch.Tensor
    positions: torch.Tensor
    write_index: torch.Tensor
    logit_rows: torch.Tensor
    virtual: tuple[torch.Tensor, torch.Tensor] | None
    """Rows of virtual tokens and their embeddings."""


def pack(chunks: Seq[Chunk], block_size: int, *, pad: bool, device: torch.device) -> Batch:
    """Packs chunks. With `pad`, rows that belong to nobody fill up a multiple of 16."""
    short = sorted((c for c in chunks if c.count <= _SHORT_ROWS), key=_adapter_order)
    ordered = (*short, *(c for c in chunks if c.count > _SHORT_ROWS))
    token_ids: list[int] = []
    positions: list[int] = []
    write_index: list[int] = []
    logit_rows: list[int] = []
    virtual_rows: list[int] = []
    virtual_states: list[torch.Tensor] = []
    for chunk in ordered:
        sequence = chunk.sequence
        start, end = chunk.start, chunk.start + chunk.count
        num_virtual = sequence.num_virtual
        if start < num_virtual:
            assert sequence.placed is not None
            assert sequence.placed.embeddings is not None
            count = min(end, num_virtual) - start
            virtual_rows.extend(range(len(token_ids), len(token_ids) + count))
            virtual_states.append(sequence.placed.embeddings[start : start + count])
            token_ids.extend([0] * count)
        token_ids.extend(
            sequence.token_ids[max(0, start - num_virtual) : max(0, end - num_virtual)]
        )
        positions.extend(range(start, end))
        blocks = sequence.blocks
        write_index.extend(
            blocks[position // block_size] * block_size + position % block_size
            for position in range(start, end)
        )
        logit_rows.extend(range(len(token_ids) - chunk.num_logit_rows, len(token_ids)))
    if pad:
        missing = -len(token_ids) % _ROW_MULTIPLE
        for rows in (token_ids, positions, write_index):
            rows.extend([0] * missing)
    packed = torch.tensor((token_ids, positions, write_index), device=device)
    virtual = None
    if virtual_rows:
        virtual = (torch.tensor(virtual_rows, device=device), torch.cat(virtual_states))
    return Batch(
        chunks=ordered,
        num_short_chunks=len(short),
        num_short_rows=sum(chunk.count for chunk in short),
        token_ids=packed[0],
        positions=packed[1],
        write_index=packed[2],
        logit_rows=torch.tensor(logit_rows, dtype=torch.int64, device=device),
        virtual=virtual,
    )


def block_tables(
    chunks: Seq[Chunk], block_size: int
) -> list[tuple[list[int] | None, npt.NDArray[np.int64], list[int]]]:
    """The rows of short `chunks` as buckets of (row numbers or None for all, block tables padded
    with 0, lengths).

    Each row is padded to the longest of its bucket, so rows are apart where that would more than
    double the work.
    """
    rows = [
        (chunk.start + i + 1, chunk.sequence.blocks) for chunk in chunks for i in range(chunk.count)
    ]
    if not rows:
        return []
    needs = [-(-length // block_size) for length, _ in rows]
    buckets: list[list[int]] = []
    limit = 0
    for row in sorted(range(len(rows)), key=needs.__getitem__, reverse=True):
        if not buckets or needs[row] * 2 < limit:
            buckets.append([])
            limit = needs[row]
        buckets[-1].append(row)
    if len(buckets) == 1:
        buckets[0].sort()
    result = []
    for bucket in buckets:
        tables = np.zeros((len(bucket), max(needs[row] for row in bucket)), dtype=np.int64)
        for i, row in enumerate(bucket):
            tables[i, : needs[row]] = rows[row][1][: needs[row]]
        lengths = [rows[row][0] for row in bucket]
        result.append((None if len(buckets) == 1 else bucket, tables, lengths))
    return result


def _adapter_order(chunk: Chunk) -> int:
    placed = chunk.sequence.placed
    return placed.serial if placed is not None and placed.groups else 0
