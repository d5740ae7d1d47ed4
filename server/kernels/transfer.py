"""What a step is told, from the host to the device."""

from collections.abc import Sequence

import torch

# 16 bytes.
_ALIGNED = 2


def to_device(device: torch.device, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """int64 `tensors` of the host on `device`, by one copy that nobody waits for."""
    if device.type == "cpu" or not tensors:
        return list(tensors)
    # Pinned memory goes to nobody before the copy is done.
    row = join(tensors, pin_memory=device.type == "cuda")
    return part(row.to(device, non_blocking=True), [tensor.shape for tensor in tensors])


def join(tensors: Sequence[torch.Tensor], *, pin_memory: bool) -> torch.Tensor:
    """int64 `tensors` in a row [n] of host memory, each from a multiple of 16 bytes on: kernels are
    compiled anew for addresses that are none."""
    sizes = [_aligned(tensor.numel()) for tensor in tensors]
    row = torch.zeros(sum(sizes), dtype=torch.int64, pin_memory=pin_memory)
    for piece, tensor in zip(row.split(sizes), tensors, strict=True):
        piece[: tensor.numel()] = tensor.reshape(-1)
    return row


def part(row: torch.Tensor, shapes: Sequence[torch.Size]) -> list[torch.Tensor]:
    """The tensors of these shapes that `join` has put into a row: views of it."""
    pieces = row.split([_aligned(shape.numel()) for shape in shapes])
    return [piece[: shape.numel()].view(shape) for piece, shape in zip(pieces, shapes, strict=True)]


def _aligned(count: int) -> int:
    return -(-count // _ALIGNED) * _ALIGNED
