"""Adapters come to the device beside the steps: nobody waits, nobody reads what is not there."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from server.adapters.weights import tensors_of
from server.models.loader import LoadedBase
from tests.server.engine.harness import Driver, HeldAdapter
from tests.server.engine.late_stream import LateStream

_KINDS = ("narrow", "wide", "dora", "ia3", "tuned", "words", "tokens", "prompt", "prefix")


def test_others_run_on_while_an_adapter_is_copied(
    loaded: LoadedBase, held: dict[str, HeldAdapter]
) -> None:
    stream = LateStream()
    with ThreadPoolExecutor(1) as loader:
        driver = Driver(loaded, loader=loader, stream=stream)
        stream.done.clear()
        plain = driver.add((1, 2, 3), max_tokens=6)
        late = driver.add((1, 2, 3), held["wide"], max_tokens=6)
        for _ in range(6):
            driver.step()
        assert stream.waiting.wait(timeout=240)
        assert len(plain.finished.token_ids) == 6
        assert late.terminal is None
        assert not driver.step(), "who waits for the copy is not run"
        stream.done.set()
        driver.run(max_steps=10**9)
    alone = Driver(loaded)
    expected = alone.add((1, 2, 3), held["wide"], max_tokens=6)
    alone.run()
    assert late.finished == expected.finished
    assert stream.num_made > 10


@pytest.mark.parametrize("kind", _KINDS)
def test_steps_read_what_was_handed_over_and_nothing_keeps_it_alive(
    loaded: LoadedBase, held: dict[str, HeldAdapter], kind: str
) -> None:
    stream = LateStream()
    driver = Driver(loaded, stream=stream, num_adapter_slots=1)
    one = driver.add((1, 2, 3), held[kind], max_tokens=3)
    while driver.core.has_work:
        driver.step()
        _check_handed_over(driver, stream)
    assert one.finished.token_ids
    driver.core.evict(kind, "v1")
    # On a CPU, what needs no change is the host's own.
    hosts = {_memory(tensor) for tensor in tensors_of(held[kind].weights)}
    assert {_memory(tensor) for tensor in stream.handed} <= hosts


def test_a_step_that_read_too_early_would_be_noticed(
    loaded: LoadedBase, held: dict[str, HeldAdapter]
) -> None:
    """The double does its work: an engine that does not wait hands over what is not there."""

    class Hasty(LateStream):
        def wait(self) -> None:
            pass

    driver = Driver(loaded, stream=Hasty())
    driver.add((1, 2, 3), held["narrow"])
    with pytest.raises(AssertionError, match="handed over before it was done"):
        driver.step()


def _check_handed_over(driver: Driver, stream: LateStream) -> None:
    for placed in driver.core._slots._placed.values():
        assert all(tensor in stream.handed for tensor in tensors_of(placed))


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
