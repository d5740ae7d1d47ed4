"""Several examples in a row of a batch, none of which sees another.

Positions begin anew with every example, and transformers makes of that a mask that lets no token
see another example's. The plain form is `trainer.tokens.collate`: a row for each, padded.
"""

import heapq
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from trainer.schedule import seeded
from trainer.tokens import IGNORED, Batch, Encoded, collate

# Attention over a row of L tokens takes 4 L H multiplications and additions per token and layer,
# the products with a layer's weights about 24 H^2, for a width of H.
ROW_PER_WIDTH = 6
# Of what an example gains from seeing its neighbour: rounding is far below, a leak is not.
MAX_LEAK = 0.1
PROBE_TOKENS = 12
# Numbers of rows that are tried for a batch.
MAX_TRIED = 32


def pack(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Indices of the examples of each row, for the least work in a model of hidden size `width`.

    Fewer rows need less padding but are longer, and attention over a row grows with its length.
    """
    alone = [[index] for index in range(len(lengths))]
    # Without a mask, attention skips what comes later: half of the work.
    best, least = alone, _work(alone, lengths, 2 * ROW_PER_WIDTH * width)
    # More rows than the longest example needs beside it only add padding.
    most = min(len(lengths), 2 + sum(lengths) // max(lengths))
    for number in range(most - 1, 0, -max(1, most // MAX_TRIED)):
        rows = _rows(lengths, number)
        if (work := _work(rows, lengths, ROW_PER_WIDTH * width)) < least:
            best, least = rows, work
    return best


def _work(rows: list[list[int]], lengths: Sequence[int], attention_length: int) -> float:
    """Of the rows padded to the longest, counted in tokens' products with the weights.

    In a row of `attention_length` tokens attention is as much work again.
    """
    longest = max(sum(lengths[i] for i in row) for row in rows)
    return len(rows) * longest * (1 + longest / attention_length)


def _rows(lengths: Sequence[int], number: int) -> list[list[int]]:
    """Spreads examples over `number` rows: the longest first, each to the row that holds least."""
    rows: list[list[int]] = [[] for _ in range(number)]
    held = [(0, row) for row in range(number)]
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        tokens, row = held[0]
        rows[row].append(index)
        heapq.heapreplace(held, (tokens + lengths[index], row))
    return rows


def collate_packed(examples: Sequence[Encoded], device: torch.device | str, width: int) -> Batch:
    """`examples` as few rows as `pack` finds; the terms of the loss are those of `collate`."""
    rows = pack([example.num_tokens for example in examples], width)
    if len(rows) == len(examples):
        return collate(examples, device)
    longest = max(sum(examples[i].num_tokens for i in row) for row in rows)
    input_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(input_ids, IGNORED)
    # Padding keeps position 0: each of its tokens is an example of its own, seen by no other.
    position_ids = torch.zeros_like(input_ids)
    for number, row in enumerate(rows):
        begin = 0
        for index in row:
            one = collate([examples[index]])
            end = begin + one.input_ids.shape[1]
            input_ids[number, begin:end] = one.input_ids[0]
            # What precedes an example's first token is another example: it predicts nothing.
            labels[number, begin + 1 : end] = one.labels[0, 1:]
            position_ids[number, begin:end] = torch.arange(end - begin)
            begin = end
    return Batch(
        input_ids.to(device),
        labels.to(device),
        num_tokens=sum(example.num_tokens for example in examples),
        num_terms=sum(example.num_learnt for example in examples),
        where=tuple(example.where for example in examples),
        position_ids=position_ids.to(device),
    )


@torch.no_grad()
def keeps_apart(model: PreTrainedModel) -> bool:
    """Whether `model` computes for packed examples what it computes for each alone.

    Tried on two short examples; not so for models that carry a state from token to token, and for
    those that count positions in ways of their own.
    """
    size = model.config.get_text_config().vocab_size
    with seeded(0, "packing"):
        ids = torch.randint(size, (1, 2 * PROBE_TOKENS), device=model.device)
    positions = torch.arange(PROBE_TOKENS, device=model.device).repeat(2)[None]
    was_training = model.training
    model.eval()
    try:
        alone = torch.cat([model(input_ids=half).logits for half in ids.chunk(2, dim=1)], dim=1)
        joined = model(input_ids=ids).logits
        packed = model(input_ids=ids, position_ids=positions).logits
    except TypeError:
        # It takes no positions.
        return False
    finally:
        model.train(was_training)
    leaks, seen = (
        (logits - alone)[0, PROBE_TOKENS:].float().abs().mean(dim=1) for logits in (packed, joined)
    )  # one per token of the second example
    return bool(leaks.max() <= MAX_LEAK * seen.mean())
