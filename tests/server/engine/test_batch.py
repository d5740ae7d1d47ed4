"""What a step is told goes to the device in one piece, and comes apart again as it was."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from server.engine.batch import to_device

_SHAPES = st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=5)


@given(_SHAPES)
def test_shapes_survive(shapes: list[list[int]]) -> None:
    """On the device without numbers, which every torch has."""
    tensors = [torch.zeros(shape, dtype=torch.int64) for shape in shapes]
    moved = to_device(torch.device("meta"), *tensors)
    assert [list(tensor.shape) for tensor in moved] == shapes
    assert all(tensor.device.type == "meta" and tensor.dtype == torch.int64 for tensor in moved)
    assert len({tensor.untyped_storage()._cdata for tensor in moved}) == 1


def test_on_the_host_nothing_is_copied() -> None:
    tensors = [torch.arange(3), torch.arange(4).view(2, 2)]
    assert to_device(torch.device("cpu"), *tensors) == tensors
