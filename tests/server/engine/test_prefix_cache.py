"""Prefixes are computed once: what is found, what must not be, and that answers stay the same."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from server.adapters.weights import AdapterWeights
from server.errors import AdapterRefusedError
from server.models.decoder import Decoder
from server.models.loader import LoadedBase
from tests.server.engine.harness import Driver, HeldAdapter, Inbox

_PROMPT = tuple(random.Random(5).choices(range(1, 320), k=100))
_OTHER = tuple(random.Random(6).choices(range(1, 320), k=100))
# Virtual tokens of the adapter "prompt".
_VIRTUAL = 5


def _rows(driver: Driver) -> int:
    """Rows computed so far."""
    return sum(s.num_prefill_tokens + s.num_decode_tokens for s in driver.metrics.steps)


def _run(driver: Driver, *args: Any, **options: Any) -> tuple[Inbox, int]:
    """Runs one request to its end; returns also the rows that its steps computed."""
    before = _rows(driver)
    inbox = driver.add(*args, **options)
    driver.run()
    return inbox, _rows(driver) - before


def _numbers(inbox: Inbox) -> tuple[tuple[int, ...], list[float]]:
    finished = inbox.finished
    return finished.token_ids, [entry.logprob for entry in finished.logprobs]


@pytest.mark.parametrize(
    ("shared", "block_size", "expected"),
    [(100, 16, 96), (64, 16, 64), (63, 16, 48), (15, 16, 0), (100, 4, 99), (99, 4, 96)],
)
def test_the_longest_prefix_is_found(
    loaded: LoadedBase, shared: int, block_size: int, expected: int
) -> None:
    """In whole blocks; of a whole prompt all but the last position, whose logits are needed."""
    driver = Driver(loaded, block_size=block_size)
    prompt = _PROMPT[:shared] + _OTHER[: 100 - shared]
    first, rows = _run(driver, _PROMPT, max_tokens=1)
    assert (rows, first.answer.usage.num_cached_tokens) == (100, 0)
    again, rows = _run(driver, prompt, max_tokens=1)
    assert (rows, again.answer.usage.num_cached_tokens) == (100 - expected, expected)
    records = driver.metrics.steps
    assert sum(record.num_prefix_queries for record in records) == 200
    assert sum(record.num_prefix_hits for record in records) == expected


@pytest.mark.parametrize("name", [None, "wide", "prompt", "prefix"])
def test_a_hit_changes_no_bit(
    name: str | None, loaded: LoadedBase, held: dict[str, HeldAdapter]
) -> None:
    adapter = held[name] if name else None
    options = {"max_tokens": 20, "num_logprobs": 0}
    prompts = [_PROMPT, _PROMPT[:50], _PROMPT[:64], _PROMPT[:70] + _OTHER[:30], _PROMPT]
    config = {"block_size": 8, "deterministic": True}
    plain = Driver(loaded, prefix_cache=False, **config)
    cached = Driver(loaded, **config)
    for i, prompt in enumerate(prompts):
        expected, num_rows = _run(plain, prompt, adapter, **options)
        found, num_fewer = _run(cached, prompt, adapter, **options)
        assert _numbers(found) == _numbers(expected)
        assert expected.answer.usage.num_cached_tokens == 0
        num_cached = found.answer.usage.num_cached_tokens
        assert (num_cached > 0) == (i > 0)
        assert num_rows - num_fewer - num_cached == (_VIRTUAL if i and name == "prompt" else 0)
    assert plain.core.stats().num_cached_blocks == 0
    assert cached.core.stats().num_cached_blocks > 0


def test_generated_tokens_are_found_too(loaded: LoadedBase) -> None:
    driver = Driver(loaded, block_size=4)
    first, _ = _run(driver, _PROMPT[:10], max_tokens=11)
    turn = (*_PROMPT[:10], *first.finished.token_ids, 7, 8)
    _, rows = _run(driver, turn, max_tokens=1)
    # Of 23 known positions, 20 were computed; the last generated token never is.
    assert rows == 3


@pytest.mark.parametrize("block_size", [1, 2, 4, 5, 8, 16])
def test_virtual_tokens_are_computed_once(
    block_size: int, loaded: LoadedBase, held: dict[str, HeldAdapter]
) -> None:
    driver = Driver(loaded, block_size=block_size)
    _, rows = _run(driver, _PROMPT[:9], held["prompt"], max_tokens=1)
    assert rows == _VIRTUAL + 9
    for text in (_OTHER[:9], _OTHER[50:51], _OTHER[30:60]):
        inbox, rows = _run(driver, text, held["prompt"], max_tokens=1)
        assert rows == len(text)
        # They are no tokens of the prompt.
        assert inbox.answer.usage.num_cached_tokens == 0


def test_virtual_tokens_in_chunks(loaded: LoadedBase, held: dict[str, HeldAdapter]) -> None:
    options = {"block_size": 4, "deterministic": True}
    driver = Driver(loaded, max_step_tokens=3, **options)
    _run(driver, _PROMPT[:2], held["prompt"], max_tokens=1)
    found, rows = _run(driver, _OTHER[:9], held["prompt"], max_tokens=4, num_logprobs=0)
    assert rows == 9 + 3
    expected, _ = _run(
        Driver(loaded, prefix_cache=False, **options),
        _OTHER[:9],
        held["prompt"],
        max_tokens=4,
        num_logprobs=0,
    )
    assert _numbers(found) == _numbers(expected)


def test_nobody_meets_anothers_states(loaded: LoadedBase, held: dict[str, HeldAdapter]) -> None:
    """Not the base's, not another adapter's, not another version's, not other virtual tokens'."""
    driver = Driver(loaded, block_size=4)
    soft = held["prompt"].weights
    # As the tokens of the base's prompt, so that nothing but the adapter tells them apart.
    other_soft = AdapterWeights(prompt=soft.prompt * 2)
    leases = [
        None,
        held["wide"],
        HeldAdapter("wide", held["narrow"].weights, "v2"),
        HeldAdapter("widev", held["late"].weights, "1"),
        held["prompt"],
        HeldAdapter("prompt", other_soft, "v2"),
    ]
    for lease in leases:
        inbox, rows = _run(driver, _PROMPT, lease, max_tokens=1)
        num_virtual = lease.num_virtual_tokens if lease else 0
        assert (rows, inbox.answer.usage.num_cached_tokens) == (num_virtual + 100, 0)


def test_a_block_is_known_by_all_before_it(loaded: LoadedBase) -> None:
    driver = Driver(loaded, block_size=4)
    _run(driver, _PROMPT, max_tokens=1)
    for prompt in (_PROMPT[4:], (1, *_PROMPT[1:]), (*_PROMPT[:4], *_PROMPT[8:])):
        _, rows = _run(driver, prompt, max_tokens=1)
        assert rows >= len(prompt) - 4


def test_an_unloaded_version_is_forgotten(loaded: LoadedBase, held: dict[str, HeldAdapter]) -> None:
    driver = Driver(loaded, block_size=4)
    _run(driver, _PROMPT, max_tokens=1)
    kept = driver.core.stats().num_cached_blocks
    _run(driver, _PROMPT, held["prompt"], max_tokens=1)
    assert driver.core.stats().num_cached_blocks > kept
    running = driver.add(_OTHER, held["prompt"], max_tokens=9)
    driver.step()
    driver.core.evict("prompt", "v1")
    driver.core.check_integrity()
    driver.run()
    assert running.finished
    changed = replace(held["prompt"].weights, prompt=held["prompt"].weights.prompt + 1)
    _, rows = _run(driver, _PROMPT, HeldAdapter("prompt", changed), max_tokens=1)
    assert rows == _VIRTUAL + 100
    _, rows = _run(driver, _PROMPT, max_tokens=1)
    assert rows == 1


def test_requests_side_by_side(loaded: LoadedBase) -> None:
    """Who comes while the prefix is computed takes it over as soon as it is there."""
    driver = Driver(loaded, block_size=4, max_step_tokens=30, deterministic=True)
    prompt = _PROMPT + _OTHER[:7]
    inboxes = [driver.add((*prompt[:-1], i), max_tokens=3, num_logprobs=0) for i in range(1, 5)]
    driver.run()
    alone = Driver(loaded, block_size=4, deterministic=True, prefix_cache=False)
    for i, inbox in enumerate(inboxes, start=1):
        expected, _ = _run(alone, (*prompt[:-1], i), max_tokens=3, num_logprobs=0)
        assert _numbers(inbox) == _numbers(expected)
    # The prompt once; of the second what one step computes beside the end of the first; then ends.
    assert _rows(driver) <= len(prompt) + 30 + 3 * 7 + 4 * 2


def test_a_prompt_that_is_half_computed_takes_over_what_others_compute(loaded: LoadedBase) -> None:
    driver = Driver(loaded, block_size=4, max_step_tokens=40)
    inboxes = [driver.add(_PROMPT[:75], max_tokens=1) for _ in range(2)]
    driver.step()
    driver.step()
    assert [(s.num_prefill_tokens, s.num_sequences) for s in driver.metrics.steps] == [
        (40, 1),
        (35 + 5, 2),
    ]
    driver.run()
    # Positions 45 .. 71 of the second came with the end of the first.
    assert _rows(driver) == 75 + 5 + 3
    assert [inbox.answer.usage.num_cached_tokens for inbox in inboxes] == [0, 40 + 27]


def test_a_preempted_sequence_finds_its_states(loaded: LoadedBase) -> None:
    config: dict[str, Any] = {"block_size": 4, "num_blocks": 40, "deterministic": True}
    runs = []
    for prefix_cache in (True, False):
        driver = Driver(loaded, prefix_cache=prefix_cache, **config)
        inboxes = [driver.add(p[:60], max_tokens=40, num_logprobs=0) for p in (_PROMPT, _OTHER)]
        driver.run()
        assert driver.metrics.num_preempted > 0
        # Its own states are not a prefix that somebody else computed.
        assert [i.answer.usage.num_cached_tokens for i in inboxes] == [0, 0]
        runs.append((_rows(driver), [_numbers(inbox) for inbox in inboxes]))
    assert runs[0][1] == runs[1][1]
    assert runs[0][0] < runs[1][0]


@pytest.mark.parametrize("name", [None, "prompt"])
@pytest.mark.parametrize("length", [32, 33, 35, 36, 1])
def test_a_score_of_the_same_context(
    length: int, name: str | None, loaded: LoadedBase, held: dict[str, HeldAdapter]
) -> None:
    driver = Driver(loaded, block_size=4, deterministic=True)
    adapter = held[name] if name else None
    num_virtual = _VIRTUAL if name else 0
    continuations = ((1, 2, 3), (4,), (5, 6))
    first, _ = _run(driver, _PROMPT[:length], adapter, continuations=continuations)
    again, rows = _run(driver, _PROMPT[:length], adapter, continuations=continuations)
    assert again.scored.scores == first.scored.scores
    context = num_virtual + length - 1
    cached = again.scored.usage.num_cached_tokens
    if context:
        # One position at least, at most what fills no block; then each continuation's rows.
        assert 1 <= rows - 6 <= 4
        assert cached == max(0, context - (rows - 6) - num_virtual)
    single, rows = _run(driver, _PROMPT[:length], adapter, continuations=((1, 2, 3),))
    assert single.scored.scores[0] == first.scored.scores[0]
    assert 3 <= rows <= 3 + 3


def test_a_failed_step_leaves_no_key(
    loaded: LoadedBase, monkeypatch: pytest.MonkeyPatch, held: dict[str, HeldAdapter]
) -> None:
    driver = Driver(loaded, block_size=4, max_step_tokens=50, deterministic=True)

    def fail(self: Decoder, *args: Any) -> torch.Tensor:
        raise RuntimeError("out of memory")

    failed = driver.add(_PROMPT, held["prompt"], max_tokens=1)
    driver.step()
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "forward", fail)
        driver.step()
    assert isinstance(failed.error, RuntimeError)
    again, rows = _run(driver, _PROMPT, held["prompt"], max_tokens=4, num_logprobs=0)
    # What the first step computed is there, what the second one did not is computed now.
    assert rows == _VIRTUAL + 100 - 48 + 3
    plain = Driver(loaded, prefix_cache=False, deterministic=True)
    expected, _ = _run(plain, _PROMPT, held["prompt"], max_tokens=4, num_logprobs=0)
    assert _numbers(again) == _numbers(expected)


def test_overflowing_states_stay_with_their_adapter(
    loaded: LoadedBase, held: dict[str, HeldAdapter]
) -> None:
    """Kept for their own adapter, which fails again; a clean block for whoever comes next."""
    soft = held["prompt"].weights
    hostile = HeldAdapter("hostile", replace(soft, prompt=soft.prompt * float("inf")))
    driver = Driver(loaded, block_size=4, num_blocks=30)
    expected, _ = _run(Driver(loaded), _PROMPT[:50], held["wide"], max_tokens=9)
    for _ in range(3):
        failed, _ = _run(driver, _PROMPT[:40], hostile, max_tokens=5)
        assert isinstance(failed.error, AdapterRefusedError)
        found, _ = _run(driver, _PROMPT[:50], held["wide"], max_tokens=9)
        assert found.finished.token_ids == expected.finished.token_ids
        driver.core.evict("wide", "v1")


def test_the_least_recently_used_prefix_goes(loaded: LoadedBase) -> None:
    driver = Driver(loaded, block_size=4, num_blocks=21)

    def rows(prompt: Sequence[int]) -> int:
        return _run(driver, prompt, max_tokens=1)[1]

    a, b, c = _PROMPT[:40], _OTHER[:40], _PROMPT[50:90]
    assert [rows(a), rows(b)] == [40, 40]
    assert rows(a) == 1
    # There is room for two: b was used before a.
    assert rows(c) == 40
    assert rows(a) == 1
    assert rows(b) == 40


def test_what_is_cached_is_no_hindrance(loaded: LoadedBase) -> None:
    """Blocks that are kept count as free: a full cache admits as an empty one does."""
    driver = Driver(loaded, block_size=4, num_blocks=60)
    for i in range(6):
        _run(driver, _PROMPT[i : i + 60], max_tokens=1)
    assert driver.core.stats().num_cached_blocks > 45
    inboxes = [driver.add(_OTHER[i : i + 40], max_tokens=4) for i in range(5)]
    driver.step()
    assert driver.core.stats().num_running == 5
    driver.run()
    assert all(inbox.finished for inbox in inboxes)
    assert driver.metrics.num_preempted == 0


def test_shared_blocks_count_once(loaded: LoadedBase) -> None:
    driver = Driver(loaded, block_size=4, num_blocks=30)
    inboxes = [driver.add(_PROMPT[:80], max_tokens=10) for _ in range(2)]
    driver.step()
    assert driver.core.stats().num_running == 1
    driver.step()
    # 21 blocks, as one token was generated, and 20; 19 are the same.
    assert driver.core.stats().num_running == 2
    assert driver.core.stats().num_used_blocks == 19 + 2 + 1
    driver.run()
    assert inboxes[0].finished.token_ids == inboxes[1].finished.token_ids
    assert driver.metrics.num_preempted == 0


def test_blocks_to_be_shared_are_not_free_as_well(loaded: LoadedBase) -> None:
    driver = Driver(loaded, block_size=4, num_blocks=30)
    _run(driver, _PROMPT[:80], max_tokens=1)
    other = driver.add(_OTHER[:60], max_tokens=2)
    driver.step()
    # 15 of 30 blocks are left, then 14, and hold the beginning of its 20.
    waiting = driver.add(_PROMPT[:80], max_tokens=1)
    driver.step()
    assert driver.core.stats().num_running == 0
    assert other.finished
    assert waiting.terminal is None
    driver.run()
    assert waiting.answer.usage.num_cached_tokens == 56
    assert driver.metrics.num_preempted == 0
