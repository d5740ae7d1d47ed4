"""Triton's sampler draws, token for token, what the plain form in exact integers draws."""

# ruff: noqa: I001  # the interpreter must be chosen before the kernels are defined
from tests.server.kernels.triton_interpreter import DEVICE

from dataclasses import replace

import numpy as np
import pytest
import torch

from server.kernels.reference import draw_reference
from server.kernels.sampling import Draws, Drawn, factor_of, max_distance
from server.kernels.triton_sampler import triton_draw

# So that a row takes several passes, and equals do not fit the shortlist.
BLOCK = 64
Filter = tuple[float, int, float, float]
"""Temperature, top-k (0 for none), top-p, min-p."""
FILTERS: list[Filter] = [
    (0.0, 0, 1.0, 0.0),
    (1.0, 0, 1.0, 0.0),
    (0.7, 5, 1.0, 0.0),
    (1.0, 0, 0.8, 0.0),
    (2.0, 100, 0.9, 0.02),
    (1.3, 0, 1.0, 0.3),
    (1.0, 1, 1.0, 0.0),
    (1.5, 0, 0.0, 0.0),
]


def draws_of(filters: list[Filter], uniforms: list[float], size: int, num_top: int = -1) -> Draws:
    reals = [
        (factor_of(t) if t else 0.0, p, u, 1.0)
        for (t, _, p, _), u in zip(filters, uniforms, strict=True)
    ]
    counts = [(k or size, max_distance(m), num_top, -1, 0, 0, 0, 0, 0) for _, k, _, m in filters]
    return Draws(
        np.array(reals, dtype=np.float64).reshape(-1, 4),
        np.array(counts, dtype=np.int64).reshape(-1, 9),
        np.empty(0, np.int32),
        np.empty(0, np.float32),
        np.empty((0, -(-size // 8)), np.uint8),
    )


def expected(logits: torch.Tensor, draws: Draws) -> list[int]:
    return [
        draw_reference(row.float().cpu(), real[0], int(count[0]), real[1], int(count[1]), real[2])
        for row, real, count in zip(logits, draws.reals, draws.counts, strict=True)
    ]


def run(logits: torch.Tensor, draws: Draws, block: int = BLOCK) -> Drawn:
    given = logits.to(DEVICE)
    kept = given.clone()
    drawn = triton_draw(given, draws, block=block)
    assert torch.equal(given.nan_to_num(), kept.nan_to_num()), "the logits were changed"
    return drawn


@pytest.mark.parametrize(
    "kind", ["normal", "bfloat16", "float16", "equals", "all_equal", "steep", "turned"]
)
def test_every_filter_in_one_launch(kind: str) -> None:
    """Greedy and sampled rows beside each other; of equals the order of tokens decides."""
    size, generator = 150, torch.Generator().manual_seed(1)
    # Rows that lie apart; what is between them is nobody's.
    wide = torch.full((len(FILTERS), size + 3), float("nan"))
    logits = wide[:, :size]
    logits.copy_(torch.randn(len(FILTERS), size, generator=generator) * 2)
    if kind == "turned":
        logits = logits.t().contiguous().t()
    elif kind in ("bfloat16", "float16"):
        logits = wide.to(getattr(torch, kind))[:, :size]
    elif kind == "equals":
        logits = logits.round().to(torch.bfloat16)
    elif kind == "all_equal":
        logits = torch.full_like(logits, -3.25)
    elif kind == "steep":
        logits = logits * 40
        logits[:, 7::9] = float("-inf")
    uniforms = torch.rand(len(FILTERS), generator=generator, dtype=torch.float64).tolist()
    draws = draws_of(FILTERS, uniforms, size)
    assert run(logits, draws).token_ids == expected(logits, draws)


def test_equals_at_every_edge() -> None:
    """Equal logits, so that every cumulative probability is known exactly: with k tokens left, the
    draw is the one numbered floor(u * k), and at an edge the one behind it."""
    size = 40
    logits = torch.zeros(6, size)
    logits[:, 3] = -5.0
    ids = [token_id for token_id in range(size) if token_id != 3]
    cases = [
        ((1.0, 8, 1.0, 0.0), 0.25, 2), ((1.0, 8, 1.0, 0.0), 0.25 - 2**-48, 1),
        # The nucleus of 8 equals that reaches a half, and just more than a half.
        ((1.0, 8, 0.5, 0.0), 1 - 2**-48, 3), ((1.0, 8, 0.5 + 2**-50, 0.0), 1 - 2**-48, 4),
        ((1.0, 0, 1.0, 0.5), 0.0, 0), ((3.0, 39, 1.0, 1.0), 1 - 2**-48, 38),
    ]  # fmt: skip
    draws = draws_of([case[0] for case in cases], [case[1] for case in cases], size)
    wanted = [ids[case[2]] for case in cases]
    assert expected(logits, draws) == wanted
    assert run(logits, draws, 2048).token_ids == wanted


@pytest.mark.parametrize("block", [16, 256])
def test_log_probabilities(block: int) -> None:
    """Those of the model, whatever the filters; of equals the lowest token comes first."""
    size, generator = 70, torch.Generator().manual_seed(2)
    logits = (torch.randn(3, size, generator=generator) * 3).round()
    draws = draws_of(FILTERS[:3], [0.1, 0.5, 0.9], size, num_top=5)
    draws.counts[:, 2] = [5, 0, 70 if block > 16 else 17]
    draws = replace(draws, counts=np.minimum(draws.counts, 64))
    drawn = run(logits, draws, block)
    wanted = logits.double().log_softmax(-1)
    assert drawn.token_ids == expected(logits, draws)
    for row, (token_id, logprob, top) in enumerate(
        zip(drawn.token_ids, drawn.logprobs, drawn.tops, strict=True)
    ):
        assert token_id is not None
        assert logprob == pytest.approx(wanted[row, token_id].item(), abs=2e-6)
        order = logits[row].sort(descending=True, stable=True).indices[: len(top)].tolist()
        assert [other for other, _ in top] == order
        assert [value for _, value in top] == pytest.approx(wanted[row, order].tolist(), abs=2e-6)
    assert [len(top) for top in drawn.tops] == draws.counts[:, 2].tolist()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rows_that_are_not_finite() -> None:
    """None for them, and their neighbours draw as without them."""
    logits = torch.tensor([[0.0, 1.0, -2.0], [0.0, 1.0, -2.0]]).repeat(3, 1)
    logits[1, 2], logits[2, 0], logits[3] = float("nan"), float("inf"), float("-inf")
    filters: list[Filter] = [(0.0, 0, 1.0, 0.0), (1.0, 0, 1.0, 0.0)] * 3
    draws = draws_of(filters, [0.9] * 6, 3, num_top=1)
    drawn = run(logits, draws)
    good = draws_of([filters[0], filters[4], filters[5]], [0.9] * 3, 3)
    own = expected(logits[[0, 4, 5]], good)
    assert drawn.token_ids == [own[0], None, None, None, own[1], own[2]]


def test_nothing_to_draw_and_too_much() -> None:
    assert run(torch.empty(0, 5), draws_of([], [], 5)) == Drawn([], [], [])
    with pytest.raises(ValueError, match="5 tokens, 65 of them wanted"):
        run(torch.empty(1, 5), draws_of(FILTERS[:1], [0.0], 5, num_top=65))
