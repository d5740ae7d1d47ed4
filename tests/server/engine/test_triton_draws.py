"""Triton's sampler with everything that may happen to a row of logits, and within the engine."""

# ruff: noqa: I001  # the interpreter must be chosen before the kernels are defined
from tests.server.kernels.triton_interpreter import DEVICE

import random
from typing import Any

import torch

from server.engine.device_sampler import arrays, draw_on_device
from server.engine.logprobs import log_probabilities
from server.kernels import MAX_TOP
from server.kernels.triton_sampler import triton_draw
from tests.server.engine.conftest import Tiny
from tests.server.engine.harness import Driver
from tests.server.engine.kinds import load_kernels
from tests.server.engine.test_device_sampler import SAMPLINGS, edited, exact, random_draw


def test_edits_come_before_filters() -> None:
    """Bans, a grammar's mask, bias and penalties as the plain form applies them, in one launch;
    log-probabilities are those from before."""
    size, generator = 90, random.Random(0)
    torch.manual_seed(0)
    draws = [random_draw(params, size, generator) for params in (*SAMPLINGS[4:], SAMPLINGS[-1])]
    logits = (torch.randn(len(draws), size) * 3).to(torch.bfloat16)
    wanted = [None, 0, 2, 3, None, 1]
    found = draw_on_device(triton_draw, logits.to(DEVICE), draws, wanted)
    packed, scores = arrays(draws, wanted, size), edited(logits, draws)
    assert [token_id for token_id, _ in found] == [
        exact(scores, packed, row) for row in range(len(draws))
    ]
    logprobs = log_probabilities(logits)
    for row, (token_id, entry) in enumerate(found):
        count = wanted[row]
        assert (entry is None) == (count is None)
        if entry is not None and count is not None and token_id is not None:
            assert abs(entry.logprob - logprobs[row, token_id].item()) < 1e-5
            order = logits[row].float().sort(descending=True, stable=True).indices[:count]
            assert [top.token_id for top in entry.top] == order.tolist()


def test_one_that_asks_for_more_leaves_the_others_on_the_device(tiny: Tiny) -> None:
    """Each gets what it would get alone."""

    def answers(requests: list[dict[str, Any]]) -> list[Any]:
        driver = Driver(load_kernels(tiny.base, "none", "triton"))
        inboxes = [driver.add((5, 9), None, max_tokens=2, **request) for request in requests]
        driver.run()
        return [inbox.finished for inbox in inboxes]

    requests: list[dict[str, Any]] = [
        {"num_logprobs": 1},
        {"num_logprobs": MAX_TOP + 1, "temperature": 1.0, "seed": 4},
        {"temperature": 1.0, "top_k": 5, "seed": 5},
    ]
    together = answers(requests)
    for request, one in zip(requests, together, strict=True):
        (alone,) = answers([request])
        assert one.token_ids == alone.token_ids
        assert [len(e.top) for e in one.logprobs] == [len(e.top) for e in alone.logprobs]
    assert [len(entry.top) for entry in together[1].logprobs] == [MAX_TOP + 1] * 2


def test_a_step_draws_greedy_and_sampled_tokens(tiny: Tiny) -> None:
    """The engine's tokens and log-probabilities by Triton's kernels are those by torch's."""
    answers = []
    for kernels in ("torch", "triton"):
        driver = Driver(load_kernels(tiny.base, "none", kernels))
        inboxes = [
            driver.add((5, 9), None, max_tokens=2, num_logprobs=2),
            driver.add((7, 3), None, max_tokens=2, temperature=1.0, top_k=8, seed=3),
        ]
        driver.run()
        answers.append([inbox.finished for inbox in inboxes])
    plain, fast = answers
    assert [one.token_ids for one in fast] == [one.token_ids for one in plain]
    for mine, other in zip(fast[0].logprobs, plain[0].logprobs, strict=True):
        assert abs(mine.logprob - other.logprob) < 1e-4
        assert [top.token_id for top in mine.top] == [top.token_id for top in other.top]
