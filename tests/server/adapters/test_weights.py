"""The one form that readers make of adapters."""

from dataclasses import fields
from typing import Any

import torch

from server.adapters.weights import AdapterWeights, LinearChange, LowRank


def test_whatever_else_is_set_is_more_than_low_rank() -> None:
    update = LowRank(torch.ones(2, 3), torch.ones(4, 2), 1.0)
    assert LinearChange(low_rank=update).is_low_rank
    for field in fields(LinearChange):
        if field.name != "low_rank":
            other: dict[str, Any] = {field.name: torch.ones(4)}
            assert not LinearChange(low_rank=update, **other).is_low_rank, field.name


def test_sizes_are_those_of_all_tensors() -> None:
    update = LowRank(torch.ones(2, 3), torch.ones(4, 2, dtype=torch.float16), 1.0)
    change = LinearChange(low_rank=update, magnitude=torch.ones(4))
    weights = AdapterWeights(linears={"a": change}, prompt=torch.ones(5, 3, dtype=torch.float64))
    assert weights.num_values == 6 + 8 + 4 + 15
    assert weights.size_bytes == 24 + 16 + 16 + 120
