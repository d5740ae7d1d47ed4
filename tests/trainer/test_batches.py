"""Which examples each step sees: batches, budgets of tokens, and their number."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.batches import BatchPlan, cut, epoch_batches
from trainer.config import OptimiserConfig
from trainer.examples import InMemory
from trainer.tokens import Encoded


def examples_of(lengths: list[int]) -> InMemory:
    return InMemory([Encoded((1,), (2,) * (n - 1), f"f:{i}") for i, n in enumerate(lengths)])


def plan_of(lengths: list[int], seed: int = 0, **settings: object) -> BatchPlan:
    return BatchPlan(examples_of(lengths), OptimiserConfig(**settings), seed)


def test_epochs_show_every_example_once_in_another_order() -> None:
    lengths = np.random.default_rng(0).integers(2, 60, 100)
    shown = np.arange(100)
    settings = OptimiserConfig(batch_size=8)

    def batches_of(epoch: int) -> list[list[int]]:
        return [b.tolist() for b in epoch_batches(shown, lengths, settings, seed=3, epoch=epoch)]

    first, second = batches_of(0), batches_of(1)
    for batches in (first, second):
        assert sorted(i for batch in batches for i in batch) == list(range(100))
        assert max(map(len, batches)) == 8
    assert first != second
    assert first == batches_of(0)
    spread = [max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in first]
    assert sum(spread) / len(spread) < (lengths.max() - lengths.min()) / 3


@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=80),
    st.integers(2, 100),
    st.integers(1, 3),
    st.integers(0, 5),
)
def test_budgets_hold_whatever_the_lengths(
    lengths: list[int], budget: int, accumulation: int, seed: int
) -> None:
    """Every epoch shows every example once, in batches within the budget, whoever asks first."""
    settings = {"max_tokens_per_batch": budget, "accumulation": accumulation, "epochs": 2.0}
    plan = plan_of(lengths, seed, **settings)
    seen = []
    for step in range(plan.num_steps):
        batches = plan.batches_of(step)
        assert 1 <= len(batches) <= accumulation
        for batch in batches:
            assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
            seen += batch.tolist()
    assert sorted(seen) == sorted(2 * list(range(len(lengths))))
    late = plan_of(lengths, seed, **settings)
    for step in reversed(range(plan.num_steps)):
        ours, theirs = late.batches_of(step), plan.batches_of(step)
        assert [b.tolist() for b in ours] == [b.tolist() for b in theirs]


def test_a_budget_is_filled() -> None:
    lengths = np.array([2] * 10 + [5] * 3 + [30])
    batches = cut(np.arange(14), lengths, OptimiserConfig(max_tokens_per_batch=20))
    assert [b.tolist() for b in batches] == [list(range(10)), [10, 11, 12], [13]]
    assert cut(np.arange(0), lengths, OptimiserConfig(max_tokens_per_batch=20)) == []


@pytest.mark.parametrize(
    ("num", "settings", "expected"),
    [
        (100, {"batch_size": 8, "accumulation": 2}, 7),
        (100, {"batch_size": 8, "accumulation": 2, "epochs": 0.5}, 4),
        (1, {"batch_size": 8, "epochs": 0.1}, 1),
        (100, {"batch_size": 10, "epochs": 3, "max_steps": 12}, 12),
        # Ten examples of 5 tokens go into 20 tokens by fours.
        (10, {"max_tokens_per_batch": 20}, 3),
        (10, {"max_tokens_per_batch": 20, "epochs": 2.5}, 8),
        (10, {"max_tokens_per_batch": 20, "epochs": 1e9, "max_steps": 5}, 5),
    ],
)
def test_number_of_steps(num: int, settings: dict[str, float], expected: int) -> None:
    assert plan_of([5] * num, **settings).num_steps == expected
