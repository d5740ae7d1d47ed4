"""Packs the chunks of a step into one row of tokens."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from server.engine.sequence import Chunk
from server.errors import StartupError
from server.kernels import to_device

# Chunks of up to this many rows run as single queries, all sequences at once.
_SHORT_ROWS = 8


@dataclass(frozen=True)
class Layout:
    """How rows and keys are laid out and padded.

    Float32 sums come out the same to the last bit in any batch if products always have a multiple
    of 16 rows, and a row's position alone decides how many keys its attention is padded to: 128,
    256, or a multiple of 512 (found by experiment with torch's CPU kernels, held by tests). The
    default pads nothing.
    """

    block_size: int
    row_multiple: int = 1
    key_sizes: tuple[int, ...] = ()
    key_multiple: int = 1
    """What keys are padded to beyond the largest of `key_sizes`."""

    @classmethod
    def deterministic(cls, block_size: int) -> "Layout":
        """The layout whose sums do not depend on the batch. Raises StartupError unless blocks
        are a power of two up to 128."""
        if block_size not in (1, 2, 4, 8, 16, 32, 64, 128):
            raise StartupError(
                f"engine.block_size {block_size}: deterministic mode needs a power of two up to 128"
            )
        return cls(block_size, row_multiple=16, key_sizes=(128, 256), key_multiple=512)

    def num_blocks(self, length: int) -> int:
        """Blocks of the padded keys of a row that sees `length` positions."""
        size = next((s for s in self.key_sizes if length <= s), round_up(length, self.key_multiple))
        return -(-size // self.block_size)

    def may_share(self, most: int, fewer: int) -> bool:
        """Whether a row that needs `fewer` blocks may be padded to `most`: it at most doubles the
        work, and changes no sum."""
        return most == fewer if self.key_sizes else fewer * 2 >= most

    def split(self, start: int, end: int) -> list[tuple[int, int]]:
        """Positions start .. end in parts whose rows agree on how their keys are padded."""
        cuts = [start, *(size for size in self.key_sizes if start < size < end), end]
        return list(pairwise(cuts))


@dataclass(frozen=True)
class Batch:
    """One step's rows [T], in host memory: short chunks first, those of one adapter next to each
    other.

    `write_index` is each row's place in the flattened cache. `logit_rows` are the rows whose
    logits are needed: `num_logit_rows` in the order of `chunks`, then padding; `state_rows`
    [num_state_rows], in the same order, those whose final hidden states are.
    """

    chunks: tuple[Chunk, ...]
    num_short_chunks: int
    num_short_rows: int
    token_ids: torch.Tensor
    positions: torch.Tensor
    write_index: torch.Tensor
    logit_rows: torch.Tensor
    num_logit_rows: int
    state_rows: torch.Tensor
    virtual: tuple[torch.Tensor, torch.Tensor] | None
    """Rows of virtual tokens, and their embeddings, which are on the device."""

    def to(self, device: torch.device) -> "Batch":
        """The batch with its numbers on `device`; itself where they are."""
        if device.type == "cpu":
            return self
        virtual = self.virtual
        token_ids, positions, write_index, logit_rows, state_rows, virtual_rows = to_device(
            device,
            self.token_ids,
            self.positions,
            self.write_index,
            self.logit_rows,
            self.state_rows,
            self.token_ids[:0] if virtual is None else virtual[0],
        )
        return replace(
            self,
            token_ids=token_ids,
            positions=positions,
            write_index=write_index,
            logit_rows=logit_rows,
            state_rows=state_rows,
            virtual=None if virtual is None else (virtual_rows, virtual[1]),
        )


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple from `value` on."""
    return -(-value // multiple) * multiple


def pack(chunks: Seq[Chunk], layout: Layout) -> Batch:
    """Packs chunks."""
    block_size = layout.block_size
    short = sorted((c for c in chunks if c.count <= _SHORT_ROWS), key=_adapter_order)
    ordered = (*short, *(c for c in chunks if c.count > _SHORT_ROWS))
    token_ids: list[int] = []
    positions: list[int] = []
    write_index: list[int] = []
    logit_rows: list[int] = []
    state_rows: list[int] = []
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
        first, last = max(0, start - num_virtual), max(0, end - num_virtual)
        token_ids.extend(sequence.token_ids[first:last])
        positions.extend(range(start, end))
        blocks = sequence.blocks
        write_index.extend(
            blocks[position // block_size] * block_size + position % block_size
            for position in range(start, end)
        )
        logit_rows.extend(range(len(token_ids) - chunk.num_logit_rows, len(token_ids)))
        state_rows.extend(range(len(token_ids) - chunk.num_state_rows, len(token_ids)))
    num_logit_rows = len(logit_rows)
    # Rows that pad write to the null block, which nobody reads unmasked.
    for rows in (token_ids, positions, write_index, logit_rows):
        rows.extend([0] * (round_up(len(rows), layout.row_multiple) - len(rows)))
    packed = torch.tensor((token_ids, positions, write_index))
    virtual = None
    if virtual_rows:
        virtual = (torch.tensor(virtual_rows), torch.cat(virtual_states))
    return Batch(
        chunks=ordered,
        num_short_chunks=len(short),
        num_short_rows=sum(chunk.count for chunk in short),
        token_ids=packed[0],
        positions=packed[1],
        write_index=packed[2],
        logit_rows=torch.tensor(logit_rows, dtype=torch.int64),
        num_logit_rows=num_logit_rows,
        state_rows=torch.tensor(state_rows, dtype=torch.int64),
        virtual=virtual,
    )


def seen_blocks(chunks: Seq[Chunk]) -> list[tuple[int, list[int]]]:
    """Of each row of short `chunks` the positions that it sees, and its sequence's blocks."""
    return [
        (chunk.start + i + 1, chunk.sequence.blocks) for chunk in chunks for i in range(chunk.count)
    ]


def block_tables(
    chunks: Seq[Chunk], layout: Layout
) -> list[tuple[list[int] | None, npt.NDArray[np.int64], list[int]]]:
    """The rows of short `chunks` as buckets of (row numbers or None for all, block tables padded
    with 0, lengths).

    Each row is padded to the longest of its bucket, so rows are apart where that would more than
    double the work, or where the layout pads their keys differently.
    """
    rows = seen_blocks(chunks)
    needs = [layout.num_blocks(length) for length, _ in rows]
    buckets: list[list[int]] = []
    for row in sorted(range(len(rows)), key=needs.__getitem__, reverse=True):
        if not buckets or not layout.may_share(needs[buckets[-1][0]], needs[row]):
            buckets.append([])
        buckets[-1].append(row)
    if len(buckets) == 1:
        buckets[0].sort()
    result = []
    for bucket in buckets:
        tables = np.zeros((len(bucket), max(needs[row] for row in bucket)), dtype=np.int64)
        for i, row in enumerate(bucket):
            length, blocks = rows[row]
            count = -(-length // layout.block_size)
            tables[i, :count] = blocks[:count]
        lengths = [rows[row][0] for row in bucket]
        result.append((None if len(buckets) == 1 else bucket, tables, lengths))
    return result


def row_tables(chunks: Seq[Chunk], block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of short `chunks` as block tables [rows, blocks], padded with 0, and lengths."""
    rows = seen_blocks(chunks)
    most = max(-(-length // block_size) for length, _ in rows)
    tables = np.zeros((len(rows), most), dtype=np.int64)
    for i, (length, blocks) in enumerate(rows):
        count = -(-length // block_size)
        tables[i, :count] = blocks[:count]
    return torch.from_numpy(tables), torch.tensor([length for length, _ in rows])


def _adapter_order(chunk: Chunk) -> int:
    placed = chunk.sequence.placed
    plain = placed is None or not (placed.groups or placed.changes or placed.fused)
    return 0 if placed is None or plain else placed.serial
