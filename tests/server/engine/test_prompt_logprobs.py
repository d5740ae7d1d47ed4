"""Log-probabilities of prompt tokens: those of a full pass, however the prompt is computed."""

import random

import pytest
import torch

from server.errors import AdapterRefusedError
from server.models.loader import LoadedBase
from server.types import TokenLogprob
from tests.server.engine import oracle
from tests.server.engine.conftest import Tiny
from tests.server.engine.harness import Driver, HeldAdapter, Inbox, overflowing

_PROMPT = tuple(random.Random(0).choices(range(1, 320), k=37))


def _prompt(inbox: Inbox) -> tuple[TokenLogprob, ...]:
    return inbox.answer.prompt_logprobs


@torch.inference_mode()
def _expected(model: torch.nn.Module, num_virtual: int) -> torch.Tensor:
    """Log-probabilities [n, vocabulary] of the tokens behind the first."""
    logits = model(input_ids=torch.tensor([_PROMPT]), use_cache=False).logits[0]
    assert len(logits) == num_virtual + len(_PROMPT)
    return logits[max(0, num_virtual - 1) : -1].log_softmax(-1)


@pytest.mark.parametrize("name", [None, "wide", "prompt", "prefix"])
@pytest.mark.parametrize("step_tokens", [512, 7])
def test_equal_to_a_full_pass(
    name: str | None,
    step_tokens: int,
    tiny: Tiny,
    loaded: LoadedBase,
    held: dict[str, HeldAdapter],
) -> None:
    model = oracle.load(tiny.base, "none", tiny.adapters[name] if name else None)
    expected = _expected(model, 5 if name == "prompt" else 0)
    # Behind virtual tokens the first token has one, too.
    tokens = _PROMPT[-len(expected) :]
    assert len(tokens) == len(_PROMPT) - (name != "prompt")
    driver = Driver(loaded, block_size=8, max_step_tokens=step_tokens)
    beside = driver.add((3, 4), held["narrow"], max_tokens=12, num_logprobs=0)
    inbox = driver.add(
        _PROMPT, held[name] if name else None, max_tokens=4, num_prompt_logprobs=3, num_logprobs=1
    )
    driver.run()
    entries = _prompt(inbox)
    assert tuple(entry.token_id for entry in entries) == tokens
    chosen = expected.gather(1, torch.tensor(tokens).unsqueeze(1)).squeeze(1)
    assert [entry.logprob for entry in entries] == pytest.approx(chosen.tolist(), rel=1e-4)
    best = expected.topk(3)
    for entry, ids, values in zip(entries, best.indices, best.values, strict=True):
        assert [top.token_id for top in entry.top] == ids.tolist()
        assert [top.logprob for top in entry.top] == pytest.approx(values.tolist(), rel=1e-4)
    assert [len(entry.top) for entry in inbox.finished.logprobs] == [1] * 4
    assert _prompt(beside) == ()


@pytest.mark.parametrize("num_samples", [1, 3])
@pytest.mark.parametrize("name", [None, "prompt", "prefix"])
def test_once_each_through_preemption(
    name: str | None, num_samples: int, loaded: LoadedBase, held: dict[str, HeldAdapter]
) -> None:
    options = {"num_prompt_logprobs": 0, "num_samples": num_samples, "max_tokens": 9}
    adapter = held[name] if name else None
    found = []
    for config in ({}, {"block_size": 4, "num_blocks": 26, "max_step_tokens": 10}):
        driver = Driver(loaded, deterministic=True, **config)
        first = [driver.add(_PROMPT[:9], max_tokens=40) for _ in range(2)]
        driver.step()
        inbox = driver.add(_PROMPT, adapter, temperature=1.0, **options)
        later = driver.add(_PROMPT[:20], adapter, max_tokens=9, num_prompt_logprobs=0)
        driver.run()
        assert all(other.finished for other in first)
        found.append((_prompt(inbox), inbox.answer.samples, _prompt(later)))
    assert driver.metrics.num_preempted
    assert found[0] == found[1]
    assert len(found[0][0]) == len(_PROMPT) - (name != "prompt")
    # What follows changes nothing.
    assert found[0][2] == found[0][0][: len(found[0][2])]


def test_the_bits_of_a_score(loaded: LoadedBase) -> None:
    driver = Driver(loaded, deterministic=True)
    inbox = driver.add(_PROMPT, num_prompt_logprobs=2)
    driver.run()
    scored = driver.add(_PROMPT[:1], continuations=(_PROMPT[1:],), num_logprobs=2)
    driver.run()
    assert _prompt(inbox) == scored.scored.scores[0].tokens


def test_a_prompt_of_one_token(loaded: LoadedBase, held: dict[str, HeldAdapter]) -> None:
    driver = Driver(loaded)
    nothing = driver.add((9,), num_prompt_logprobs=0)
    behind = driver.add((9,), held["prompt"], num_prompt_logprobs=0)
    driver.run()
    assert _prompt(nothing) == ()
    assert [entry.token_id for entry in _prompt(behind)] == [9]


def test_cancelled_within_its_prompt(loaded: LoadedBase) -> None:
    driver = Driver(loaded, max_step_tokens=10)
    request = driver.request(_PROMPT, num_prompt_logprobs=0, num_samples=2)
    inbox = driver.submit(request)
    driver.step()
    driver.step()
    driver.core.cancel(request.request_id)
    driver.run()
    assert inbox.error
    assert driver.core.stats().num_used_blocks == 0


def test_overflow_harms_nobody(loaded: LoadedBase, held: dict[str, HeldAdapter]) -> None:
    hostile = HeldAdapter("hostile", overflowing(held["wide"].weights))
    driver = Driver(loaded, max_step_tokens=30)
    beside = driver.add(_PROMPT, num_prompt_logprobs=0)
    failed = driver.add(_PROMPT, hostile, num_prompt_logprobs=0)
    driver.run()
    assert isinstance(failed.error, AdapterRefusedError)
    assert len(_prompt(beside)) == len(_PROMPT) - 1


def test_a_long_prompt_is_taken_in_parts(loaded: LoadedBase) -> None:
    """More rows than are turned into log-probabilities at a time, in one step."""
    prompt = tuple(random.Random(1).choices(range(1, 320), k=400))
    driver = Driver(loaded, deterministic=True)
    inbox = driver.add(prompt, num_prompt_logprobs=1)
    driver.run()
    narrow = Driver(loaded, deterministic=True, max_step_tokens=33)
    other = narrow.add(prompt, num_prompt_logprobs=1)
    narrow.run()
    assert _prompt(inbox) == _prompt(other)
    assert [entry.token_id for entry in _prompt(inbox)] == list(prompt[1:])
