"""Sampling through the engine: penalties, bias, filters and seeds, in any batch."""

from typing import Any

import pytest
import torch

from server.models.loader import LoadedBase
from tests.server.engine import oracle
from tests.server.engine.conftest import Tiny
from tests.server.engine.harness import Driver, HeldAdapter

_PROMPT = (40, 41, 42, 41, 7, 9, 9, 9, 200)
_BIAS = ((41, -3.0), (100, 2.5))


@pytest.mark.parametrize("step_tokens", [512, 4])
@pytest.mark.parametrize("name", [None, "wide"])
def test_penalised_greedy_tokens_are_those_of_transformers(
    name: str | None,
    step_tokens: int,
    tiny: Tiny,
    loaded: LoadedBase,
    held: dict[str, HeldAdapter],
) -> None:
    """`generate` with the same repetition penalty and bias, token by token."""
    model: Any = oracle.load(tiny.base, "none", tiny.adapters[name] if name else None)
    expected = model.generate(
        input_ids=torch.tensor([_PROMPT]),
        attention_mask=torch.ones(1, len(_PROMPT), dtype=torch.long),
        do_sample=False,
        max_new_tokens=24,
        min_new_tokens=24,
        repetition_penalty=1.7,
        sequence_bias=[[[i], bias] for i, bias in _BIAS],
        pad_token_id=0,
    )[0, len(_PROMPT) :].tolist()
    options: dict[str, Any] = {"max_tokens": 24, "min_tokens": 24, "ignore_eos": False}
    driver = Driver(loaded, max_step_tokens=step_tokens)
    beside = driver.add((3, 4), held["narrow"], max_tokens=30)
    adapter = held[name] if name else None
    plain = driver.add(_PROMPT, adapter, **options)
    found = driver.add(_PROMPT, adapter, repetition_penalty=1.7, logit_bias=_BIAS, **options)
    driver.run()
    assert beside.finished
    assert list(found.finished.token_ids) == expected
    assert found.finished.token_ids != plain.finished.token_ids


def test_penalties_of_generated_tokens_ignore_the_prompt(loaded: LoadedBase) -> None:
    liked = tuple((token_id, 12.0) for token_id in set(_PROMPT))
    options: dict[str, Any] = {"max_tokens": 2, "temperature": 1.0, "logit_bias": liked}
    penalties = {"presence_penalty": 2.0, "frequency_penalty": 2.0}
    driver = Driver(loaded, max_batch_size=64)
    free = [driver.add(_PROMPT, seed=seed, **options) for seed in range(30)]
    held_back = [driver.add(_PROMPT, seed=seed, **options, **penalties) for seed in range(30)]
    driver.run()
    pairs = [
        (a.finished.token_ids, b.finished.token_ids) for a, b in zip(free, held_back, strict=True)
    ]
    assert all(a[0] == b[0] for a, b in pairs)
    assert sum(a[1] != b[1] for a, b in pairs) > 5
    assert sum(a[0] in _PROMPT for a, _ in pairs) > 20


_OPTIONS: dict[str, dict[str, Any]] = {
    "min_p": {"temperature": 1.2, "min_p": 0.05},
    "repetition": {"temperature": 0.8, "repetition_penalty": 1.3},
    "counted": {"temperature": 1.0, "frequency_penalty": 0.7, "presence_penalty": 0.4},
    "biased": {"temperature": 1.0, "top_k": 40, "logit_bias": _BIAS},
    "greedy": {"repetition_penalty": 1.2, "frequency_penalty": 0.5},
}


def test_seeds_do_not_depend_on_the_batch(loaded: LoadedBase, held: dict[str, HeldAdapter]) -> None:
    """Alone, together, and through preemption: every option gives the same tokens."""
    jobs = [{"seed": seed, "max_tokens": 14, **o} for seed in (1, 2) for o in _OPTIONS.values()]
    alone = []
    for options in jobs:
        driver = Driver(loaded, deterministic=True)
        alone.append(driver.add(_PROMPT, **options))
        driver.run()
    for config in ({}, {"block_size": 4, "num_blocks": 30, "max_step_tokens": 16}):
        driver = Driver(loaded, deterministic=True, **config)
        together = [driver.add(_PROMPT, **options) for options in jobs]
        driver.add((1, 2, 3), held["wide"], max_tokens=9, temperature=1.0)
        driver.run()
        assert driver.metrics.num_preempted or not config
        found = [inbox.finished.token_ids for inbox in together]
        assert found == [inbox.finished.token_ids for inbox in alone]
    assert len(set(found)) == len(jobs) - 1  # The greedy one is the same under both seeds.


def test_logprobs_are_those_before_penalties_and_bias(loaded: LoadedBase) -> None:
    driver = Driver(loaded)
    biased = driver.add(_PROMPT, max_tokens=4, num_logprobs=1, logit_bias=((77, 500.0),))
    driver.run()
    forced = driver.add(_PROMPT, continuations=((77,) * 4,))
    driver.run()
    assert biased.finished.token_ids == (77,) * 4
    found = [entry.logprob for entry in biased.finished.logprobs]
    (score,) = forced.scored.scores
    assert found == pytest.approx([entry.logprob for entry in score.tokens], rel=1e-5)
    assert all(entry.top[0].token_id != 77 for entry in biased.finished.logprobs)
