"""The forms that run equal the plain ones."""

import pytest
import torch

from server.kernels import (
    AttentionStep,
    LongChunk,
    LoraGroup,
    LoraSegment,
    LoraStep,
    MaskedLora,
    ShortRows,
    apply_lora,
    paged_attention,
)
from server.kernels.reference import attention_reference, lora_reference

_BLOCK = 4


@pytest.mark.parametrize("heads", [(4, 2), (6, 1), (3, 3)], ids=str)
@pytest.mark.parametrize("window", [None, 1, 6, 100])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_attention(heads: tuple[int, int], window: int | None, softcap: float | None) -> None:
    """Decoding rows of several lengths, a fresh prompt and the rest of a longer one, at once."""
    generator = torch.Generator().manual_seed(0)
    num_heads, num_kv = heads
    dim, layer = 8, 1
    # (positions in the cache before, rows now); the last two are long chunks.
    sequences = [(0, 1), (5, 1), (13, 1), (7, 3), (0, 9), (6, 11)]
    caches = [torch.zeros(64, _BLOCK, 2, num_kv, dim) for _ in range(2)]
    free = (torch.randperm(63, generator=generator) + 1).tolist()
    rows: list[torch.Tensor] = []
    expected, write_index, tables, lengths, chunks = [], [], [], [], []
    keys, values = [], []
    for before, count in sequences:
        total = before + count
        k = torch.randn(total, num_kv, dim, generator=generator)
        v = torch.randn(total, num_kv, dim, generator=generator)
        q = torch.randn(count, num_heads, dim, generator=generator)
        blocks = [free.pop() for _ in range(-(-total // _BLOCK))]
        places = [blocks[p // _BLOCK] * _BLOCK + p % _BLOCK for p in range(total)]
        flat = caches[layer].view(-1, 2, num_kv, dim)
        flat[places[:before], 0], flat[places[:before], 1] = k[:before], v[:before]
        expected.append(
            attention_reference(
                q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), 0.3, window, softcap
            )
        )
        start = sum(map(len, rows))
        if count > 3:
            chunks.append(LongChunk(slice(start, start + count), before, torch.tensor(blocks)))
        else:
            for i in range(count):
                tables.append(blocks + [0] * (8 - len(blocks)))
                lengths.append(before + i + 1)
        rows.append(q)
        keys.append(k[before:])
        values.append(v[before:])
        write_index += places[before:]
    # Two buckets, the first in no particular order.
    first = torch.tensor([4, 0, 5])
    second = torch.tensor([1, 2, 3])
    short = tuple(
        ShortRows(part, torch.tensor(tables)[part], torch.tensor(lengths)[part])
        for part in (first, second)
    )
    step = AttentionStep(
        caches, torch.tensor(write_index), short, tuple(chunks), scratch=torch.empty(100)
    )
    query, key, value = (
        torch.cat(parts).transpose(0, 1).unsqueeze(0) for parts in (rows, keys, values)
    )
    for _ in range(2):
        found = paged_attention(step, layer, query, key, value, 0.3, window, softcap)
        torch.testing.assert_close(found[0], torch.cat(expected), rtol=1e-5, atol=1e-6)
    assert not caches[0].any()


def _adapter(
    rank: int, columns: list[slice], seed: int
) -> tuple[LoraGroup, dict[int, tuple[torch.Tensor, torch.Tensor, float]]]:
    """A group of linears [10, 7] whose members at `columns` are updated, and the same per
    member."""
    generator = torch.Generator().manual_seed(seed)
    members = {}
    pieces, parts = [], []
    for i, column in enumerate(columns):
        a = torch.randn(rank, 7, generator=generator)
        b = torch.randn(column.stop - column.start, rank, generator=generator)
        members[column.start] = (a, b, 0.5)
        pieces.append(a)
        parts.append((column, slice(i * rank, (i + 1) * rank), (b * 0.5).t().contiguous()))
    return LoraGroup(torch.cat(pieces), tuple(parts)), members


def test_lora() -> None:
    both = [slice(0, 6), slice(6, 10)]
    first, first_members = _adapter(3, both, seed=1)
    second, second_members = _adapter(5, both[1:], seed=2)
    x = torch.randn(9, 7, generator=torch.Generator().manual_seed(3))
    base = torch.randn(9, 10, generator=torch.Generator().manual_seed(4))
    owners = [None, first_members, second_members, first_members, None, *([second_members] * 4)]
    stack = LoraGroup(
        torch.cat([first.a, second.a]),
        (
            first.parts[0],
            (
                both[1],
                slice(3, 11),
                torch.cat([first.parts[1][2], second.parts[0][2]]),
            ),
        ),
    )
    owner_of_column = torch.tensor([0] * 6 + [1] * 5)
    owner_of_row = torch.tensor([0, 1, 0, -1]).unsqueeze(1)
    step = LoraStep(
        MaskedLora(slice(1, 5), {0: stack}, {0: owner_of_row != owner_of_column}),
        (LoraSegment(slice(5, 9), {0: second}),),
    )
    found = base.clone()
    apply_lora(step, 0, x, found)
    untouched = base.clone()
    apply_lora(step, 1, x, untouched)
    for column in both:
        adapters = [None if o is None else o.get(column.start) for o in owners]
        expected = lora_reference(x, adapters, base[:, column])
        torch.testing.assert_close(found[:, column], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(untouched, base)


def test_another_adapters_overflow_stays_its_own() -> None:
    columns = [slice(0, 10)]
    good, _ = _adapter(2, columns, seed=1)
    bad, _ = _adapter(2, columns, seed=2)
    stack = LoraGroup(
        torch.cat([good.a, bad.a * 1e38]),
        ((columns[0], slice(0, 4), torch.cat([good.parts[0][2], bad.parts[0][2]])),),
    )
    foreign = torch.tensor([[False, False, True, True]]).repeat(3, 1)
    x = torch.full((3, 7), 10.0)
    found, expected = torch.zeros(3, 10), torch.zeros(3, 10)
    apply_lora(LoraStep(MaskedLora(slice(0, 3), {0: stack}, {0: foreign}), ()), 0, x, found)
    apply_lora(LoraStep(None, (LoraSegment(slice(0, 3), {0: good}),)), 0, x, expected)
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected)
