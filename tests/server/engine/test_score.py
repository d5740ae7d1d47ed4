"""Score: log-likelihood of continuations, the context computed once."""

import pytest
import torch

from server.engine.kv_cache import KVCache
from server.errors import AdapterRefusedError
from server.models.loader import LoadedBase
from tests.server.engine import oracle
from tests.server.engine.conftest import Tiny
from tests.server.engine.harness import Driver, HeldAdapter, overflowing

_CONTEXT = tuple(range(40, 75))
_CONTINUATIONS = ((5,), (6, 7, 8), tuple(range(100, 120)), (5,), ())


@torch.inference_mode()
def _expected(
    model: torch.nn.Module, context: tuple[int, ...], continuation: tuple[int, ...]
) -> tuple[list[float], bool]:
    ids = torch.tensor([[*context, *continuation]])
    logits = model(input_ids=ids, use_cache=False).logits[0]
    rows = logits[len(logits) - len(continuation) - 1 : -1]
    targets = torch.tensor(continuation, dtype=torch.long)
    logprobs = rows.log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1)
    return logprobs.tolist(), bool((rows.argmax(-1) == targets).all())


@pytest.mark.parametrize("name", [None, "wide", "prompt", "prefix"])
@pytest.mark.parametrize("step_tokens", [512, 7])
def test_scores_equal_a_full_pass(
    name: str | None,
    step_tokens: int,
    tiny: Tiny,
    loaded: LoadedBase,
    held: dict[str, HeldAdapter],
) -> None:
    model = oracle.load(tiny.base, "none", tiny.adapters[name] if name else None)
    best = oracle.greedy(model, _CONTEXT, 4).token_ids
    continuations = (*_CONTINUATIONS, best)
    driver = Driver(loaded, block_size=8, max_step_tokens=step_tokens)
    beside = driver.add((3, 4), held["narrow"], max_tokens=12)
    inbox = driver.add(_CONTEXT, held[name] if name else None, continuations=continuations)
    driver.run()
    assert beside.finished
    for score, continuation in zip(inbox.scored.scores, continuations, strict=True):
        logprobs, is_greedy = _expected(model, _CONTEXT, continuation)
        assert [token.token_id for token in score.tokens] == list(continuation)
        assert [token.logprob for token in score.tokens] == pytest.approx(logprobs, rel=1e-4)
        assert score.logprob == pytest.approx(sum(logprobs), rel=1e-4)
        assert score.is_greedy == is_greedy
    assert inbox.scored.scores[-1].is_greedy
    assert inbox.scored.usage.num_completion_tokens == sum(map(len, continuations))


def test_the_context_runs_once(loaded: LoadedBase) -> None:
    driver = Driver(loaded, block_size=8)
    continuations = tuple((i, i + 1) for i in range(1, 21))
    inbox = driver.add(_CONTEXT, continuations=continuations)
    driver.run()
    assert len(inbox.scored.scores) == 20
    num_rows = sum(s.num_prefill_tokens + s.num_decode_tokens for s in driver.metrics.steps)
    # The context up to its last token once, then per continuation that token and all but one.
    assert num_rows == len(_CONTEXT) - 1 + 20 * 2


def test_top_tokens(loaded: LoadedBase) -> None:
    driver = Driver(loaded)
    inbox = driver.add(_CONTEXT, continuations=((9, 8), (7,)), num_logprobs=3)
    driver.run()
    for score in inbox.scored.scores:
        for token in score.tokens:
            values = [top.logprob for top in token.top]
            assert len(values) == 3
            assert values == sorted(values, reverse=True)
            assert token.logprob <= values[0]


def test_one_token_of_context(loaded: LoadedBase) -> None:
    driver = Driver(loaded)
    inbox = driver.add((9,), continuations=((1,), (2, 3)))
    driver.run()
    assert [len(score.tokens) for score in inbox.scored.scores] == [1, 2]


def test_nothing_to_score(loaded: LoadedBase) -> None:
    driver = Driver(loaded)
    inbox = driver.add((9, 8), continuations=((), ()))
    assert [score.logprob for score in inbox.scored.scores] == [0.0, 0.0]
    assert not driver.core.has_work


def test_cancelled_between_context_and_continuations(loaded: LoadedBase) -> None:
    driver = Driver(loaded, max_batch_size=1, block_size=8)
    request = driver.request(_CONTEXT, continuations=((1, 2), (3, 4), (5, 6)))
    inbox = driver.submit(request)
    driver.step()
    driver.step()
    driver.core.cancel(request.request_id)
    driver.core.check_integrity()
    assert inbox.error
    assert driver.core.stats().num_used_blocks == 0


def test_a_failing_fork_leaves_nothing_behind(
    loaded: LoadedBase, held: dict[str, HeldAdapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: KVCache, source: int, targets: list[int]) -> None:
        raise RuntimeError("out of memory")

    driver = Driver(loaded, block_size=8)
    with monkeypatch.context() as patch:
        patch.setattr(KVCache, "copy", fail)
        inbox = driver.add(_CONTEXT, held["wide"], continuations=((1, 2), (3, 4), (5, 6)))
        driver.run()
    assert isinstance(inbox.error, RuntimeError)
    assert driver.core.stats().num_running == 0
    again = driver.add(_CONTEXT, held["wide"], continuations=((1, 2), (3, 4)))
    driver.run()
    assert len(again.scored.scores) == 2


def test_a_score_that_overflows_harms_nobody(
    loaded: LoadedBase, held: dict[str, HeldAdapter]
) -> None:
    hostile = HeldAdapter("hostile", overflowing(held["wide"].weights))
    driver = Driver(loaded)
    beside = driver.add(_CONTEXT, max_tokens=5)
    failed = driver.add((7,), hostile, continuations=((1,), (2, 3), (4,)))
    driver.run()
    assert isinstance(failed.error, AdapterRefusedError)
    assert hostile.num_released == 1
    assert beside.finished
