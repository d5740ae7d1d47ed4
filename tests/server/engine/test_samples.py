"""Several samples of one prompt: the prompt computed once, each sample as if it were alone."""

from dataclasses import replace
from typing import Any

import pytest

from server.engine.kv_cache import KVCache
from server.engine.sampler import sample_seed
from server.errors import AdapterRefusedError, DeadlineError, RequestCancelledError
from server.models.loader import LoadedBase
from server.types import Failed, FinishReason
from tests.server.engine.harness import Driver, HeldAdapter, Inbox, overflowing

_PROMPT = tuple(range(40, 63))
_OPTIONS: dict[str, Any] = {"max_tokens": 12, "temperature": 1.1, "seed": 5}


def _tokens(inbox: Inbox) -> list[tuple[int, ...]]:
    return [sample.token_ids for sample in inbox.answer.samples]


def _alone(
    loaded: LoadedBase, adapter: HeldAdapter | None, count: int, options: dict[str, Any]
) -> list[Inbox]:
    """The samples as requests of their own, one after the other."""
    driver = Driver(loaded, deterministic=True)
    inboxes = []
    for index in range(count):
        seed = sample_seed(options["seed"], index)
        inboxes.append(driver.add(_PROMPT, adapter, **{**options, "seed": seed}))
        driver.run()
    return inboxes


def test_sample_seeds() -> None:
    seeds = {(seed, index): sample_seed(seed, index) for seed in range(40) for index in range(40)}
    assert all(seeds[seed, 0] == seed for seed in range(40))
    assert len(set(seeds.values())) == len(seeds)
    assert all(0 <= seed < 2**64 for seed in seeds.values())
    assert sample_seed(2**64 - 1, 3) == sample_seed(-1, 3)


@pytest.mark.parametrize("name", [None, "wide", "prompt"])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"block_size": 8, "max_batch_size": 3, "max_step_tokens": 9},
        {"block_size": 4, "num_blocks": 22},
    ],
    ids=["roomy", "narrow", "tight"],
)
def test_samples_equal_requests_of_their_own(
    name: str | None, config: dict[str, int], loaded: LoadedBase, held: dict[str, HeldAdapter]
) -> None:
    adapter = held[name] if name else None
    options = {**_OPTIONS, "num_logprobs": 2, "repetition_penalty": 1.2, "min_p": 0.01}
    alone = _alone(loaded, adapter, 5, options)
    driver = Driver(loaded, deterministic=True, **config)
    beside = driver.add((3, 4), held["narrow"], max_tokens=20)
    inbox = driver.add(_PROMPT, adapter, num_samples=5, **options)
    driver.run()
    assert beside.finished
    assert list(inbox.answer.samples) == [other.finished for other in alone]
    assert len(set(_tokens(inbox))) == 5
    assert inbox.answer.usage.num_completion_tokens == 5 * 12
    assert inbox.answer.usage.num_prompt_tokens == len(_PROMPT)
    if "num_blocks" in config:
        assert driver.metrics.num_preempted


@pytest.mark.parametrize("stream", [True, False])
def test_one_sample_is_the_first_of_several(loaded: LoadedBase, stream: bool) -> None:
    driver = Driver(loaded, deterministic=True)
    one = driver.add(_PROMPT, stream=stream, **_OPTIONS)
    three = driver.add(_PROMPT, stream=stream, num_samples=3, **_OPTIONS)
    driver.run()
    assert three.answer.samples[0] == one.finished
    assert len(three.events) == (1 + 3 * 12 if stream else 1)


def test_the_prompt_runs_once(loaded: LoadedBase) -> None:
    driver = Driver(loaded, block_size=8, max_batch_size=40)
    inbox = driver.add(_PROMPT, num_samples=32, **_OPTIONS)
    driver.run()
    assert len(set(_tokens(inbox))) > 20
    num_rows = sum(s.num_prefill_tokens + s.num_decode_tokens for s in driver.metrics.steps)
    # The prompt, and every token but each sample's last.
    assert num_rows == len(_PROMPT) + 32 * 11
    assert max(step.num_used_blocks for step in driver.metrics.steps) == 2 + 32 * 3


def test_greedy_samples_are_alike(loaded: LoadedBase) -> None:
    driver = Driver(loaded, deterministic=True)
    inbox = driver.add(_PROMPT, num_samples=4, max_tokens=6)
    driver.run()
    assert len(set(_tokens(inbox))) == 1


def test_one_token_each(loaded: LoadedBase) -> None:
    driver = Driver(loaded)
    inbox = driver.add((9,), num_samples=64, max_tokens=1, temperature=2.0)
    driver.run()
    assert len(driver.metrics.steps) == 1
    assert len(set(_tokens(inbox))) > 5


def test_samples_end_each_in_its_own_time(loaded: LoadedBase) -> None:
    """End of sequence, stop strings and min_tokens count for each sample by itself."""
    driver = Driver(loaded, deterministic=True)
    free = driver.add(_PROMPT, num_samples=6, **{**_OPTIONS, "max_tokens": 40})
    driver.run()
    texts = [sample.text for sample in free.answer.samples]
    # In the middle of some samples' text, across tokens more often than not.
    stop = next(
        text[i : i + 2]
        for text in texts
        for i in range(20, len(text) - 1)
        if 0 < sum(text[i : i + 2] in other for other in texts) < 6
    )
    options = {**_OPTIONS, "max_tokens": 40, "stop": (stop,), "ignore_eos": False}
    # Makes the end of sequence (token 0) likely.
    options["logit_bias"] = ((0, 4.0),)
    for min_tokens in (0, 15):
        alone = _alone(loaded, None, 6, {**options, "min_tokens": min_tokens})
        inbox = driver.add(_PROMPT, num_samples=6, min_tokens=min_tokens, **options)
        driver.run()
        assert list(inbox.answer.samples) == [other.finished for other in alone]
        counts = [len(sample.token_ids) for sample in inbox.answer.samples]
        assert min(counts) >= min_tokens
        assert len(set(counts)) > 1
        assert FinishReason.EOS in {sample.reason for sample in inbox.answer.samples}


def test_a_sample_that_ends_gives_its_blocks_back(loaded: LoadedBase) -> None:
    driver = Driver(loaded, block_size=4)
    inbox = driver.add(
        _PROMPT, num_samples=8, max_tokens=60, ignore_eos=False, temperature=1.0,
        logit_bias=((0, 3.0),),
    )  # fmt: skip
    driver.run()
    running = [step.num_sequences for step in driver.metrics.steps]
    assert running[1] <= 8
    assert running[1:] == sorted(running[1:], reverse=True)
    assert running[-1] < running[1]
    lengths = sorted(len(sample.token_ids) for sample in inbox.answer.samples)
    assert sum(running) == 1 + sum(lengths) - 8


@pytest.mark.parametrize("num_steps", [0, 1, 2, 5])
def test_cancelled_samples_leave_nothing_behind(loaded: LoadedBase, num_steps: int) -> None:
    driver = Driver(loaded, max_batch_size=2, block_size=8)
    request = driver.request(_PROMPT, num_samples=4, **_OPTIONS)
    inbox = driver.submit(request)
    for _ in range(num_steps):
        driver.step()
    driver.core.cancel(request.request_id)
    driver.core.check_integrity()
    assert isinstance(inbox.error, RequestCancelledError)
    assert sum(isinstance(event, Failed) for event in inbox.events) == 1
    assert driver.core.stats().num_used_blocks == 0
    assert not driver.core.has_work


def test_samples_past_their_deadline(loaded: LoadedBase) -> None:
    driver = Driver(loaded)
    request = driver.request(_PROMPT, num_samples=4, **_OPTIONS)
    inbox = driver.submit(replace(request, deadline_s=request.arrival_s + 1000))
    driver.step()
    driver.step()
    driver.core.expire(request.arrival_s + 1001)
    driver.core.check_integrity()
    assert isinstance(inbox.error, DeadlineError)
    assert driver.core.stats().num_used_blocks == 0


def test_samples_that_overflow_fail_once(loaded: LoadedBase, held: dict[str, HeldAdapter]) -> None:
    hostile = HeldAdapter("hostile", overflowing(held["wide"].weights))
    driver = Driver(loaded)
    beside = driver.add(_PROMPT, num_samples=3, **_OPTIONS)
    failed = driver.add(_PROMPT, hostile, num_samples=3, **_OPTIONS)
    driver.run()
    assert isinstance(failed.error, AdapterRefusedError)
    assert hostile.num_released == 1
    assert len(beside.answer.samples) == 3


def test_a_failing_fork_leaves_nothing_behind(
    loaded: LoadedBase, held: dict[str, HeldAdapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: KVCache, *args: Any) -> None:
        raise RuntimeError("out of memory")

    driver = Driver(loaded, block_size=8)
    with monkeypatch.context() as patch:
        patch.setattr(KVCache, "copy", fail)
        inbox = driver.add(_PROMPT, held["wide"], num_samples=3, **_OPTIONS)
        driver.run()
    assert isinstance(inbox.error, RuntimeError)
    assert driver.core.stats().num_used_blocks == 0
    again = driver.add(_PROMPT, held["wide"], num_samples=3, **_OPTIONS)
    driver.run()
    assert len(again.answer.samples) == 3
