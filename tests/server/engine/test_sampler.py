import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from server.engine.logits_processors import Draw
from server.engine.logprobs import log_probabilities, token_logprobs
from server.engine.sampler import draw, uniforms
from server.types import SamplingParams

_FILTERS = [
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.6),
    SamplingParams(temperature=1.3, top_k=5),
    SamplingParams(temperature=1.0, top_p=0.7),
    SamplingParams(temperature=0.8, top_k=7, top_p=0.5),
    SamplingParams(temperature=1.0, top_k=300),
    SamplingParams(temperature=2.0, top_k=500, top_p=0.83),
    SamplingParams(temperature=2.0, top_p=0.999),
    SamplingParams(temperature=1.0, top_k=1),
    SamplingParams(temperature=1.0, top_p=1e-6),
]


def _expected(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """transformers' distribution."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(params.temperature)])
    if params.top_k:
        warpers.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1.0:
        warpers.append(TopPLogitsWarper(params.top_p))
    return warpers(torch.zeros(1, 1, dtype=torch.long), logits.unsqueeze(0))[0].softmax(-1)


@pytest.mark.parametrize("size", [20, 1000])
@pytest.mark.parametrize("params", _FILTERS, ids=str)
def test_distribution(params: SamplingParams, size: int) -> None:
    """Many draws fit transformers' distribution: chi-square, rare tokens in one bin."""
    logits = torch.randn(size, generator=torch.Generator().manual_seed(3)) * 2
    expected = _expected(logits, params).double().numpy()
    count = 5000
    rows = logits.expand(count, size).clone()
    found = np.bincount(draw(rows, [Draw(params, i) for i in range(count)]), minlength=size)
    rare = expected * count < 5
    observed = [*found[~rare], found[rare].sum()]
    wanted = [*expected[~rare], expected[rare].sum()]
    kept = [i for i, probability in enumerate(wanted) if probability > 0]
    frequencies = np.array([wanted[i] for i in kept])
    frequencies *= count / frequencies.sum()
    if len(kept) > 1:
        assert chisquare([observed[i] for i in kept], frequencies).pvalue > 1e-4
    # Nothing outside of the filters' set is ever drawn.
    assert found[expected == 0].sum() == 0


def test_draws_do_not_depend_on_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(24, 600, generator=generator)
    draws = [
        Draw(SamplingParams(p.temperature, p.top_k, p.top_p, seed=i), position=i)
        for i, p in enumerate([*_FILTERS, SamplingParams()] * 2)
    ]
    together = draw(logits[: len(draws)].clone(), draws)
    for i, item in enumerate(draws):
        assert draw(logits[i : i + 1].clone(), [item]) == [together[i]]
    order = torch.randperm(len(draws), generator=generator).tolist()
    shuffled = draw(logits[order].clone(), [draws[i] for i in order])
    assert shuffled == [together[i] for i in order]


def test_seed_and_position_decide() -> None:
    numbers = uniforms([0, 0, 1, 2**64 - 1, 0], [0, 1, 0, 0, 0])
    assert numbers[0] == numbers[4]
    assert len(set(numbers)) == 4
    assert ((numbers >= 0) & (numbers < 1)).all()


def test_uniforms_are_uniform_over_seeds_and_positions() -> None:
    count = 100_000
    for seeds, positions in (
        (range(count), [0] * count),
        ([7] * count, range(count)),
    ):
        numbers = uniforms(list(seeds), list(positions))
        frequencies = np.histogram(numbers, bins=50, range=(0, 1))[0] / count
        assert np.abs(frequencies - 0.02).max() < 5 * (0.02 * 0.98 / count) ** 0.5
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.02


def test_greedy_takes_the_first_of_the_largest() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0], [1.0, 0.0, -1.0]])
    assert draw(logits, [Draw(SamplingParams(), 0)] * 2) == [1, 0]


def test_tiny_temperature_is_greedy() -> None:
    logits = torch.tensor([[0.0, 1000.0, 999.0]])
    assert draw(logits, [Draw(SamplingParams(temperature=1e-30, seed=4), 0)]) == [1]


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1.0)], ids=str)
def test_banned_tokens_are_not_drawn(params: SamplingParams) -> None:
    logits = torch.tensor([[5.0, 4.0, 0.0]]).repeat(50, 1)
    drawn = draw(logits, [Draw(params, i, banned=(0, 2)) for i in range(50)])
    assert drawn == [1] * 50


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_are_none(bad: float) -> None:
    logits = torch.tensor([[0.0, 1.0], [0.0, bad], [0.0, 1.0]])
    params = SamplingParams(temperature=1e-6)
    assert draw(logits, [Draw(params, 0)] * 3) == [1, None, 1]


def test_logprobs_are_those_of_the_model() -> None:
    logits = torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 0.0]])
    expected = logits.double().log_softmax(-1)
    first, second = token_logprobs(log_probabilities(logits), [1, 0], num_top=2)
    assert first.logprob == pytest.approx(float(expected[0, 1]), rel=1e-6)
    assert [top.token_id for top in first.top] == [2, 1]
    assert second.top[0].logprob == second.logprob == pytest.approx(float(expected[1, 0]), rel=1e-6)
    assert token_logprobs(log_probabilities(logits), [1, 0], num_top=0)[0].top == ()
