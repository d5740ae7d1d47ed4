"""Decode steps on buffers that stay: alone, captured and replayed, against ordinary steps."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.config import EngineConfig
from server.engine.decode_graphs import bucket_of
from server.engine.engine import Engine
from server.errors import StartupError
from server.kernels import load_native, load_triton
from server.models import loader
from server.models.loader import LoadedBase, load_base
from tests.server.engine import oracle
from tests.server.engine.conftest import Tiny
from tests.server.engine.harness import Driver, HeldAdapter, Inbox, Recorder, read_adapter
from tests.server.engine.kinds import difference
from tests.server.engine.slot_kernels import NativeSlots
from tests.server.engine.tape import Tape, TapedKernels

_LOW_RANK = ("narrow", "wide", "late")
_TOKENS = 12


@pytest.fixture
def tape() -> Tape:
    return Tape()


@pytest.fixture
def make(tiny: Tiny, tape: Tape, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LoadedBase]:
    """Loads the tiny base with kernels whose calls the tape knows."""

    def load(kernels: str, **options: Any) -> LoadedBase:
        if kernels == "native":
            native = load_native()
            if native is None:
                pytest.skip("the native kernels were not compiled, or not for this CPU")
            native = NativeSlots(Path(native._library._name))
            monkeypatch.setattr(loader, "load_native", lambda: TapedKernels(native, tape))
        elif kernels == "triton":
            found = load_triton(torch.device("cpu"))
            if isinstance(found, str):
                pytest.skip(found)
            monkeypatch.setattr(loader, "load_triton", lambda _: TapedKernels(found, tape))
        return load_base(tiny.base, kernels=kernels, **options)

    return load


def _add_all(
    driver: Driver, tiny: Tiny, names: tuple[str | None, ...], seed: int, count: int = 0
) -> list[tuple[str | None, tuple[int, ...], Inbox]]:
    """`count` requests, or three for each adapter, one after the other, of prompts of 1 to 30
    tokens."""
    generator = random.Random(seed)
    base = driver.base.info
    held = {
        name: None if name is None else HeldAdapter(name, read_adapter(tiny.adapters[name], base))
        for name in names
    }
    sent = []
    for i in range(count or 3 * len(names)):
        name = names[i % len(names)]
        prompt = tuple(generator.randrange(1, base.vocab_size) for _ in range(1 + 13 * i % 31))
        inbox = driver.add(prompt, held[name], max_tokens=_TOKENS + i, num_logprobs=base.vocab_size)
        sent.append((name, prompt, inbox))
        driver.step()
    driver.run()
    return sent


@pytest.mark.parametrize("kernels", ["torch", "native", "triton"])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_replays_say_what_the_oracle_says(
    tiny: Tiny, tape: Tape, make: Callable[..., LoadedBase], kernels: str, quantization: str
) -> None:
    base = make(kernels, quantization=quantization)
    driver = Driver(base, capture=tape, max_batch_size=16)
    names = {"torch": (None,), "triton": (None, "narrow")}.get(kernels, (None, *_LOW_RANK))
    # The interpreter takes its time.
    sent = _add_all(driver, tiny, names, seed=1, count=2 if kernels == "triton" else 0)
    assert driver.core.graphs is not None
    assert driver.core.graphs.num_captured == len(tape.lengths) >= 1
    for name in names:
        path = None if name is None else tiny.adapters[name]
        model = oracle.load(tiny.base, base.info.quantization, path)
        for own, prompt, inbox in sent:
            if own == name:
                solo = oracle.greedy(model, prompt, len(inbox.finished.token_ids))
                assert inbox.finished.token_ids == solo.token_ids, (name, len(prompt))
                assert difference(inbox.finished, solo) <= 1e-5


@pytest.mark.parametrize("kernels", ["torch", "native"])
def test_a_replay_has_the_bits_of_the_step_that_it_repeats(
    tiny: Tiny, tape: Tape, make: Callable[..., LoadedBase], kernels: str
) -> None:
    base = make(kernels, quantization="none")
    names = (None,) if kernels == "torch" else (None, *_LOW_RANK)
    found = []
    for capture in (tape, _run_again):
        driver = Driver(base, capture=capture, max_batch_size=16)
        found.append([inbox.finished for _, _, inbox in _add_all(driver, tiny, names, seed=2)])
    assert tape.lengths
    assert found[0] == found[1]


def test_a_step_that_cannot_be_captured_is_launched_as_ever(
    tiny: Tiny, make: Callable[..., LoadedBase], caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and no capture is tried again."""
    asked = []

    def fail(run: Any) -> Any:
        asked.append(run)
        raise RuntimeError("out of memory")

    base = make("torch", quantization="none")
    found = []
    for capture in (fail, None):
        driver = Driver(base, capture=capture, max_batch_size=16)
        found.append([inbox.finished for _, _, inbox in _add_all(driver, tiny, (None,), seed=2)])
    assert [one.token_ids for one in found[0]] == [one.token_ids for one in found[1]]
    said = [record for record in caplog.records if "cannot be captured" in record.message]
    assert len(asked) == len(said) == 1


def test_a_replay_reads_nothing_but_its_buffers(tiny: Tiny, tape: Tape) -> None:
    """A step that asks the device for a number, or takes one along from the host, is no graph."""
    for work in (
        lambda: torch.ones(2).sum().item(),
        lambda: torch.tensor([1.0, 2.0]),
        lambda: torch.ones(2).nonzero(),
    ):
        with pytest.raises(AssertionError, match="within a captured step"):
            tape(lambda work=work: work())


def test_what_is_more_than_decoding_runs_as_ever(
    tiny: Tiny, tape: Tape, make: Callable[..., LoadedBase]
) -> None:
    """Prompts, scores, virtual tokens, and adapters that change more than linears, beside others
    that replay; who shares a step with them is run with them."""
    base = make("native", quantization="none")
    driver = Driver(base, capture=tape, max_batch_size=16)
    sent = _add_all(driver, tiny, (None, "narrow", *sorted(tiny.adapters)), seed=3)
    plain = Driver(base, max_batch_size=16)
    expected = _add_all(plain, tiny, (None, "narrow", *sorted(tiny.adapters)), seed=3)
    for (name, _, one), (_, _, other) in zip(sent, expected, strict=True):
        assert one.finished.token_ids == other.finished.token_ids, name
    scored = driver.add((5, 6, 7), continuations=((8, 9), (10,)))
    driver.run()
    assert len(scored.scored.scores) == 2
    assert tape.lengths


def test_slots_change_hands_under_the_same_graphs(
    tiny: Tiny, tape: Tape, make: Callable[..., LoadedBase]
) -> None:
    """Twelve versions of three adapters take turns in two slots; each is itself."""
    base = make("native", quantization="none")
    read = {n: read_adapter(tiny.adapters[n], base.info) for n in _LOW_RANK}
    answers: list[list[tuple[int, ...]]] = []
    num_captured = 0
    for capture in (tape, None):
        driver = Driver(base, capture=capture, num_adapter_slots=2, max_batch_size=2)
        inboxes = [
            driver.add(
                range(1, 6 + i % 3), HeldAdapter(name, read[name], f"v{i}"), max_tokens=_TOKENS
            )
            for i, name in enumerate(_LOW_RANK * 4)
        ]
        driver.run()
        answers.append([inbox.finished.token_ids for inbox in inboxes])
        if driver.core.graphs is not None:
            num_captured = driver.core.graphs.num_captured
    assert answers[0] == answers[1]
    assert num_captured < 10 < len(answers[0])


def test_the_least_used_buckets_leave(
    tiny: Tiny, tape: Tape, make: Callable[..., LoadedBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.engine.decode_graphs._MAX_BUCKETS", 1)
    base = make("torch", quantization="none")
    driver = Driver(base, capture=tape)
    first = driver.add((1, 2, 3), max_tokens=30)
    second = driver.add((4, 5), max_tokens=12)
    driver.run()
    assert len(tape.lengths) == 2, "two rows, then one"
    again = driver.add((1, 2, 3), max_tokens=30)
    driver.run()
    assert again.finished.token_ids == first.finished.token_ids
    assert len(second.finished.token_ids) == 12


@given(
    num_rows=st.integers(1, 300),
    num_blocks=st.integers(1, 3000),
    ranks=st.lists(st.integers(0, 1024), max_size=5),
)
@settings(deadline=None)
def test_buckets_hold_their_steps_and_waste_little(
    num_rows: int, num_blocks: int, ranks: list[int]
) -> None:
    found = bucket_of(num_rows, num_blocks, ranks, max_rows=300, max_blocks=3000)
    assert num_rows <= found.rows <= min(300, max(num_rows + 7, 1))
    assert found.rows < 2 * num_rows or num_rows == found.rows
    assert num_blocks <= found.blocks <= min(3000, max(8, 2 * num_blocks))
    assert found.ranks == () or len(found.ranks) == len(ranks)
    assert bool(found.ranks) == any(ranks)
    for rank, padded in zip(ranks, found.ranks, strict=False):
        assert (rank == 0) == (padded == 0)
        assert rank <= padded < max(17, 2 * rank)
    # A bucket is its own: steps of its size do not make another.
    again = bucket_of(found.rows, found.blocks, found.ranks, max_rows=300, max_blocks=3000)
    assert again == found


def test_graphs_are_refused_where_they_cannot_be(tiny: Tiny, loaded: LoadedBase) -> None:
    with pytest.raises(StartupError, match=r"engine.cuda_graphs: the base is on cpu; leave it off"):
        Engine(loaded, EngineConfig(cuda_graphs=True), Recorder())


def _run_again(run: Any) -> Any:
    """A capture that keeps nothing but the result's place."""
    out = run().clone()
    return out, lambda: out.copy_(run())
