"""Bias, penalties and filters: transformers' distributions, number for number."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from server.engine import sampler
from server.engine.logits_processors import Draw, LogitEdits, distinct_tokens, edit, logit_edits
from server.types import SamplingParams

_PROMPT = (3, 17, 3, 5, 39, 0)
_GENERATED = (17, 8, 8, 21, 8)
_LARGEST = torch.finfo(torch.float32).max


def _edits(
    params: SamplingParams, prompt: Sequence[int], generated: Sequence[int]
) -> LogitEdits | None:
    edits = logit_edits(params, distinct_tokens(params, prompt))
    if edits is not None:
        for token_id in generated:
            edits.push(token_id)
    return edits


def _processed(
    logits: torch.Tensor, params: SamplingParams, prompt: Sequence[int], generated: Sequence[int]
) -> torch.Tensor:
    """Logits [V] after transformers' processors, and OpenAI's formula token by token."""
    processors = LogitsProcessorList()
    if params.logit_bias:
        processors.append(SequenceBiasLogitsProcessor([[[i], b] for i, b in params.logit_bias]))
    processors.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    scores = processors(torch.tensor([[*prompt, *generated]]), logits.unsqueeze(0))[0].clone()
    for token_id in set(generated):
        scores[token_id] -= generated.count(token_id) * params.frequency_penalty
        scores[token_id] -= params.presence_penalty
    return scores


def _distribution(scores: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """transformers' filters, in the order of `GenerationMixin._get_logits_processor`."""
    filters = LogitsProcessorList([TemperatureLogitsWarper(params.temperature)])
    if params.top_k:
        filters.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1.0:
        filters.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        filters.append(MinPLogitsWarper(params.min_p))
    return filters(torch.zeros(1, 1, dtype=torch.long), scores.unsqueeze(0))[0].softmax(-1)


def _drawn(
    logits: torch.Tensor,
    params: SamplingParams,
    edits: LogitEdits | None,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> np.ndarray:
    """How often each token comes where the random numbers are an even grid: a token of
    probability p comes p * count times, to within one."""
    with monkeypatch.context() as patch:
        patch.setattr(
            sampler, "uniforms", lambda seeds, positions: (np.array(positions) + 0.5) / count
        )
        draws = [Draw(params, i, edits=edits) for i in range(count)]
        tokens = sampler.draw(logits.expand(count, -1).clone(), draws)
    return np.bincount(tokens, minlength=len(logits))


_PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 0.7, 1.0, 1.9]),
    top_k=st.sampled_from([0, 0, 1, 3, 12, 500]),
    top_p=st.sampled_from([1.0, 1.0, 0.3, 0.83, 0.99]),
    min_p=st.sampled_from([0.0, 0.0, 0.02, 0.21, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 0.6, 1.3, 4.0]),
    frequency_penalty=st.sampled_from([0.0, 0.9, -2.0]),
    presence_penalty=st.sampled_from([0.0, 1.1, -0.4]),
    logit_bias=st.sampled_from([(), ((8, 1.5), (3, -2.0)), ((39, 100.0),), ((5, 3.0), (30, 3.5))]),
)


@settings(max_examples=80, deadline=None)
@example(params=SamplingParams(temperature=1.9, top_k=500, top_p=0.83), seed=0, size=700)
@given(params=_PARAMS, seed=st.integers(0, 50), size=st.sampled_from([40, 700]))
def test_distributions_are_those_of_transformers(
    params: SamplingParams, seed: int, size: int
) -> None:
    count = 500
    logits = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3
    expected = _distribution(_processed(logits, params, _PROMPT, _GENERATED), params)
    with pytest.MonkeyPatch.context() as monkeypatch:
        edits = _edits(params, _PROMPT, _GENERATED)
        found = _drawn(logits, params, edits, monkeypatch, count)
    wanted = expected.double().numpy() * count
    assert np.abs(found - wanted).max() <= 1.01
    assert found[wanted == 0].sum() == 0


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(repetition_penalty=2.5),
        SamplingParams(frequency_penalty=1.7),
        SamplingParams(presence_penalty=-2.0),
        SamplingParams(logit_bias=((8, -50.0), (4, 7.25))),
        SamplingParams(
            repetition_penalty=0.5,
            frequency_penalty=-1.0,
            presence_penalty=2.0,
            logit_bias=((17, 4.0),),
        ),
    ],
    ids=str,
)
def test_greedy_takes_the_best_of_the_edited_logits(params: SamplingParams) -> None:
    logits = torch.randn(30, 40, generator=torch.Generator().manual_seed(5)) * 2
    expected = [int(_processed(row, params, _PROMPT, _GENERATED).argmax()) for row in logits]
    assert expected != logits.argmax(-1).tolist()
    draws = [Draw(params, 5, edits=_edits(params, _PROMPT, _GENERATED)) for _ in logits]
    assert sampler.draw(logits.clone(), draws) == expected


def test_rows_are_edited_each_by_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows with edits, other edits and none, greedy and random, together as alone."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(24, 40, generator=generator)
    options = [
        SamplingParams(),
        SamplingParams(repetition_penalty=1.4),
        SamplingParams(frequency_penalty=0.8, logit_bias=((2, 1.0),)),
        SamplingParams(presence_penalty=0.8),
        SamplingParams(logit_bias=((9, -3.0),)),
        SamplingParams(min_p=0.3),
    ]
    draws = []
    for i in range(len(logits)):
        temperature = 0.0 if i % 4 == 0 else 0.9
        params = replace(options[i % len(options)], temperature=temperature, seed=i)
        generated = [(i * 7 + j) % 40 for j in range(i)]
        draws.append(Draw(params, i, edits=_edits(params, range(i % 5), generated)))
    together = sampler.draw(logits.clone(), draws)
    for i, item in enumerate(draws):
        assert sampler.draw(logits[i : i + 1].clone(), [item]) == [together[i]]
    edits = {i: item.edits for i, item in enumerate(draws) if item.edits}
    found = logits.clone()
    edit(found, edits)
    for i, item in enumerate(draws):
        alone = logits[i : i + 1].clone()
        if item.edits:
            edit(alone, {0: item.edits})
        assert torch.equal(found[i], alone[0])


def test_what_needs_no_edits_has_none() -> None:
    assert (
        _edits(SamplingParams(temperature=1.0, top_k=3, top_p=0.5, min_p=0.1), (1, 2), ()) is None
    )


def test_half_precision_is_edited_in_float32() -> None:
    """A bias far below the spacing of bfloat16 numbers of this size decides a tie."""
    logits = torch.full((1, 8), 100.0, dtype=torch.bfloat16)
    params = SamplingParams(logit_bias=((5, 0.01),))
    assert sampler.draw(logits, [Draw(params, 0, edits=_edits(params, (), ()))]) == [5]


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(repetition_penalty=1e38),
        SamplingParams(repetition_penalty=1e-38),
        SamplingParams(logit_bias=tuple((i, _LARGEST) for i in range(8))),
        SamplingParams(logit_bias=tuple((i, -_LARGEST) for i in range(8)), repetition_penalty=9.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_overflow_draws_a_token_all_the_same(params: SamplingParams, temperature: float) -> None:
    params = replace(params, temperature=temperature)
    logits = torch.randn(1, 8, generator=torch.Generator().manual_seed(0)) * 100
    edits = _edits(params, range(8), (1, 1, 2))
    (token_id,) = sampler.draw(logits, [Draw(params, 3, edits=edits)])
    assert token_id is not None


def test_what_is_banned_stays_banned() -> None:
    params = SamplingParams(logit_bias=((1, _LARGEST), (0, 9.0)), repetition_penalty=0.1)
    edits = _edits(params, (1,), (1,))
    logits = torch.tensor([[0.0, 4.0, 1.0]])
    assert sampler.draw(logits, [Draw(params, 0, banned=(1,), edits=edits)]) == [0]


def test_overflowing_logits_are_not_mended() -> None:
    params = SamplingParams(logit_bias=((1, 1.0),))
    edits = _edits(params, (), ())
    for bad in (float("nan"), float("inf")):
        assert sampler.draw(torch.tensor([[0.0, bad]]), [Draw(params, 0, edits=edits)]) == [None]


def test_counts_grow_with_the_generation() -> None:
    params = SamplingParams(frequency_penalty=1.0)
    edits = _edits(params, (), [i % 37 for i in range(100)])
    assert edits is not None
    assert edits.generated.tolist() == list(range(37))
    assert edits.counts.tolist() == [3.0] * 26 + [2.0] * 11
