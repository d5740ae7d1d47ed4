"""Random workloads: nothing is lost, nothing leaks, and nobody's answer depends on the others."""

import random
import time
from collections.abc import Callable
from functools import cache

import pytest

from server.errors import DeadlineError, RequestCancelledError
from server.models.loader import LoadedBase
from server.types import Failed, Finished, Scored
from tests.server.engine.conftest import Tiny
from tests.server.engine.harness import Driver, HeldAdapter, Inbox, read_adapter

# Half of them begin with the same tokens.
_PREFIX = tuple(random.Random(99).choices(range(1, 320), k=21))
_PROMPTS = [
    _PREFIX * (i % 2) + tuple(random.Random(i).choices(range(1, 320), k=1 + 7 * i % 50))
    for i in range(8)
]
_TOKENS = (1, 4, 9, 17)


Solo = Callable[[tuple[int, ...], str | None], tuple[int, ...]]


@pytest.fixture(scope="module")
def solo(tiny: Tiny, loaded: LoadedBase) -> Solo:
    """A prompt's greedy tokens under an adapter, alone in the engine."""

    @cache
    def run(prompt: tuple[int, ...], name: str | None) -> tuple[int, ...]:
        driver = Driver(loaded, deterministic=True)
        adapter = (
            HeldAdapter(name, read_adapter(tiny.adapters[name], loaded.info)) if name else None
        )
        inbox = driver.add(prompt, adapter, max_tokens=max(_TOKENS))
        driver.run()
        return inbox.finished.token_ids

    return run


@pytest.mark.parametrize("seed", range(6))
def test_random_workload(
    seed: int, loaded: LoadedBase, held: dict[str, HeldAdapter], solo: Solo
) -> None:
    """A cache too small for the batch, more adapters than slots, cancels, deadlines, shared
    prefixes and adapters that are unloaded meanwhile."""
    generator = random.Random(seed)
    names = [None, *held]
    driver = Driver(
        loaded,
        max_batch_size=generator.choice([3, 8]),
        max_step_tokens=generator.choice([9, 64]),
        block_size=generator.choice([4, 8]),
        num_blocks=generator.choice([25, 60]),
        num_adapter_slots=2,
        deterministic=seed % 2 == 0,
    )
    jobs: dict[str, tuple[Inbox, HeldAdapter | None, tuple[int, ...], str | None]] = {}
    cancelled: set[str] = set()
    expiring: set[str] = set()
    for _ in range(60):
        for _ in range(generator.choice([0, 0, 1, 3])):
            name = generator.choice(names)
            prompt = generator.choice(_PROMPTS)
            options: dict[str, object] = {"priority": generator.choice([0, 0, 5])}
            if generator.random() < 0.25:
                options["continuations"] = tuple(
                    tuple(generator.choices(range(1, 320), k=generator.randrange(5)))
                    for _ in range(generator.randrange(1, 6))
                )
            else:
                options["num_samples"] = generator.choice([1, 1, 1, 2, 5])
                options["num_prompt_logprobs"] = generator.choice([None, None, 1])
                options["stream"] = generator.random() < 0.5
            if generator.random() < 0.1:
                options["deadline_s"] = time.monotonic() + generator.choice([0.0, 0.02])
            adapter = held[name] if name else None
            request = driver.request(
                prompt, adapter, max_tokens=generator.choice(_TOKENS), **options
            )
            if request.deadline_s is not None:
                expiring.add(request.request_id)
            jobs[request.request_id] = (driver.submit(request), adapter, prompt, name)
        if jobs and generator.random() < 0.15:
            request_id = generator.choice(list(jobs))
            if jobs[request_id][0].terminal is None:
                cancelled.add(request_id)
            driver.core.cancel(request_id)
        if generator.random() < 0.05:
            driver.core.evict(generator.choice(list(held)), "v1")
        driver.step()
    driver.run()
    stats = driver.core.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_used_blocks) == (0, 0, 0)
    for request_id, (inbox, _, prompt, name) in jobs.items():
        terminal = inbox.terminal
        if isinstance(terminal, Finished):
            for sample in inbox.answer.samples:
                token_ids = sample.token_ids
                assert token_ids == solo(prompt, name)[: len(token_ids)]
            known = [entry.token_id for entry in terminal.prompt_logprobs]
            # Embedded virtual tokens have logits for the first one.
            assert not known or known == list(prompt)[name not in ("prompt", "encoded") :]
        elif isinstance(terminal, Failed):
            expected_error = {
                RequestCancelledError: request_id in cancelled,
                DeadlineError: request_id in expiring,
            }
            assert expected_error.get(type(terminal.error)), terminal
        else:
            assert isinstance(terminal, Scored)
    for name, adapter in held.items():
        count = sum(job_name == name for _, _, _, job_name in jobs.values())
        assert adapter.num_released == count
    assert len(driver.metrics.ended) == len(jobs)
    assert cancelled
    assert sum(record.num_prefix_hits for record in driver.metrics.steps) > 0


def test_preemption_happens_and_changes_nothing(
    loaded: LoadedBase, held: dict[str, HeldAdapter]
) -> None:
    names = [None, "wide", "prompt", "narrow"]

    def run(**config: int) -> tuple[Driver, list[tuple[int, ...]]]:
        driver = Driver(loaded, deterministic=True, **config)
        inboxes = [
            driver.add(prompt, held[name] if name else None, max_tokens=20)
            for prompt, name in zip(_PROMPTS[3:7], names, strict=True)
        ]
        driver.run()
        return driver, [inbox.finished.token_ids for inbox in inboxes]

    roomy, expected = run()
    tight, found = run(block_size=4, num_blocks=24)
    assert roomy.metrics.num_preempted == 0
    assert tight.metrics.num_preempted > 0
    assert found == expected


def test_a_score_survives_preemption(loaded: LoadedBase) -> None:
    continuations = tuple((i, i + 1, i + 2) for i in range(1, 40, 4))

    def run(**config: int) -> tuple[Driver, Scored]:
        driver = Driver(loaded, deterministic=True, **config)
        generations = [driver.add(prompt, max_tokens=30) for prompt in _PROMPTS[:3]]
        scored = driver.add(_PROMPTS[7], continuations=continuations)
        driver.run()
        assert all(inbox.finished for inbox in generations)
        return driver, scored.scored

    _, expected = run()
    tight, found = run(block_size=4, num_blocks=23, max_batch_size=6, max_step_tokens=16)
    assert tight.metrics.num_preempted > 0
    assert [score.is_greedy for score in found.scores] == [s.is_greedy for s in expected.scores]
    assert [score.logprob for score in found.scores] == pytest.approx(
        [score.logprob for score in expected.scores], rel=1e-5
    )
