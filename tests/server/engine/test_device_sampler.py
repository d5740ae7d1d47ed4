"""The sampler in exact integers and the plain one draw the same tokens from the same seeds."""

import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from server.engine.device_sampler import arrays, takes
from server.engine.generation import draw_next
from server.engine.logits_processors import Draw, distinct_tokens, edit, logit_edits, mask
from server.engine.sampler import draw
from server.kernels import MAX_TOP, Draws
from server.kernels.reference import draw_reference
from server.kernels.sampling import Drawn
from server.types import SamplingParams

# A plain draw adds float32 probabilities: each is off by a few units of 2^-24, and so are the
# edges between tokens, of the whole.
EDGE = 2e-6
SAMPLINGS = [
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.3, min_p=0.1),
    SamplingParams(temperature=0.8, top_k=40),
    SamplingParams(temperature=1.2, top_p=0.9),
    SamplingParams(temperature=1.0, top_k=300, top_p=0.95, min_p=0.01),
    SamplingParams(temperature=1.0, top_k=9, logit_bias=((3, 4.5), (8, -100.0))),
    SamplingParams(temperature=1.0, top_p=0.7, repetition_penalty=1.4),
    SamplingParams(temperature=1.0, frequency_penalty=0.6, presence_penalty=-0.4),
    SamplingParams(repetition_penalty=0.7, presence_penalty=2.0),
]


def random_draw(params: SamplingParams, size: int, generator: random.Random) -> Draw:
    params = replace(params, seed=generator.getrandbits(63))
    prompt = [generator.randrange(size) for _ in range(6)]
    edits = logit_edits(params, distinct_tokens(params, prompt))
    for _ in range(5 if edits is not None else 0):
        assert edits is not None
        edits.push(generator.choice([*prompt, generator.randrange(size)]))
    banned = (1, size - 2) if generator.random() < 0.5 else ()
    allowed = None
    if generator.random() < 0.3:
        bits = np.array([generator.random() < 0.8 for _ in range(size)])
        allowed = np.packbits(bits, bitorder="little").tobytes()
    return Draw(params, generator.randrange(100), banned, edits, allowed)


def edited(logits: torch.Tensor, draws: list[Draw]) -> torch.Tensor:
    """Float32 logits after the plain edits."""
    scores = logits.float().clone()
    mask(scores, draws)
    edit(scores, {row: item.edits for row, item in enumerate(draws) if item.edits is not None})
    return scores


def exact(scores: torch.Tensor, packed: Draws, row: int, shift: float = 0.0) -> int:
    factor, top_p, uniform, _ = packed.reals[row]
    top_k, distance = (int(value) for value in packed.counts[row, :2])
    moved = min(max(uniform + shift, 0.0), 1 - 2**-48)
    return draw_reference(scores[row], factor, top_k, top_p, distance, moved)


@pytest.mark.parametrize("kind", ["normal", "equals", "flat"])
def test_the_plain_sampler_draws_the_same(kind: str) -> None:
    """Also among equals, at the end of the shortlist and beyond it. Where a number falls within
    `EDGE` of the edge between two tokens, either is right."""
    size, generator = 700, random.Random(kind)
    torch.manual_seed(5)
    draws = [random_draw(params, size, generator) for params in SAMPLINGS * 12]
    logits = torch.randn(len(draws), size) * 2
    if kind == "equals":
        logits = logits.round()
    elif kind == "flat":
        logits = (logits / 8).round()
    packed = arrays(draws, [None] * len(draws), size)
    scores = edited(logits, draws)
    plain = draw(logits.clone(), draws)
    others = 0
    for row, token_id in enumerate(plain):
        if token_id != exact(scores, packed, row):
            others += 1
            assert token_id in [exact(scores, packed, row, shift) for shift in (-EDGE, EDGE)]
    assert others <= 1


def test_one_that_asks_for_more_leaves_the_others_on_the_device() -> None:
    size, generator = 90, random.Random(1)
    torch.manual_seed(1)
    draws = [random_draw(params, size, generator) for params in SAMPLINGS[:5]]
    wanted = [1, MAX_TOP + 1, None, MAX_TOP, MAX_TOP + 5]
    samples: Any = [
        SimpleNamespace(
            generation=SimpleNamespace(request=SimpleNamespace(num_logprobs=count)),
            draw=lambda item=item: item,
        )
        for item, count in zip(draws, wanted, strict=True)
    ]
    logits, given = torch.randn(len(draws), size), []

    def sampler(rows: torch.Tensor, packed: Draws) -> Drawn:
        given.append(rows.clone())
        count = len(rows)
        return Drawn([1000 + i for i in range(count)], [-1.0] * count, [[(5, -2.0)]] * count)

    found = draw_next(samples, logits.clone(), sampler)
    plain = draw_next(samples, logits.clone())
    (rows,) = given
    assert rows.equal(logits[[0, 2, 3]])
    assert [found[i][0] for i in (0, 2, 3)] == [1000, 1001, 1002]
    assert [found[i][1] is None for i in (0, 2, 3)] == [False, True, False]
    assert [found[i] for i in (1, 4)] == [plain[i] for i in (1, 4)]


def test_what_a_device_takes() -> None:
    assert all(takes(128_256, count) for count in (None, 0, 64))
    assert not takes(128_256, 65)
    assert not takes(1 << 19, None)
