"""What a step is told goes to the device in one piece, and comes apart again as it was."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from server.kernels.transfer import join, part, to_device

_SHAPES = st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=5)


@given(_SHAPES)
def test_numbers_survive(shapes: list[list[int]]) -> None:
    tensors = [torch.randint(1 << 40, shape) for shape in shapes]
    row = join(tensors, pin_memory=False)
    parts = part(row, [tensor.shape for tensor in tensors])
    for one, other in zip(parts, tensors, strict=True):
        assert one.equal(other)
        assert (one.data_ptr() - row.data_ptr()) % 16 == 0 or not one.numel()


@given(_SHAPES)
def test_one_copy_for_all(shapes: list[list[int]]) -> None:
    """On the device without numbers, which every torch has."""
    tensors = [torch.zeros(shape, dtype=torch.int64) for shape in shapes]
    moved = to_device(torch.device("meta"), *tensors)
    assert [list(tensor.shape) for tensor in moved] == shapes
    assert all(tensor.device.type == "meta" and tensor.dtype == torch.int64 for tensor in moved)
    assert len({tensor.untyped_storage()._cdata for tensor in moved}) == 1


def test_on_the_host_nothing_is_copied() -> None:
    tensors = [torch.arange(3), torch.arange(4).view(2, 2)]
    assert to_device(torch.device("cpu"), *tensors) == tensors
