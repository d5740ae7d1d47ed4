"""An adapter's tensors on their way to the device."""

from collections.abc import Iterable

import torch

# Up to so many bytes that many tensors lie in are copied at once: a copy of its own for each of
# hundreds costs more than their bytes. Beyond it tensors are large, and few.
_COPIED_AT_ONCE = 256 << 20


class AdapterCopy:
    """Copies memory that many tensors lie in, such as an artifact's file, at once, and takes the
    tensors from there. The copy goes when this object does."""

    def __init__(self, tensors: Iterable[torch.Tensor], device: torch.device) -> None:
        """`tensors` are in host memory; a copy from pinned memory waits for nothing."""
        self._device = device
        sharing: dict[int, list[torch.Tensor]] = {}
        for tensor in tensors:
            sharing.setdefault(_address(tensor), []).append(tensor)
        # By the address on the host.
        self._copied: dict[int, torch.Tensor] = {}
        for address, own in sharing.items():
            storage = own[0].untyped_storage()
            # Not if it is mostly of no use here.
            limit = min(_COPIED_AT_ONCE, 2 * sum(tensor.nbytes for tensor in own))
            if len(own) > 1 and storage.nbytes() <= limit:
                whole = torch.empty(0, dtype=torch.uint8).set_(storage)
                self._copied[address] = whole.to(device, non_blocking=True, copy=True)

    def part(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` on the device. It may keep the copy of all alive: for what is gone soon."""
        copied = self._copied.get(_address(tensor))
        if copied is None:
            return tensor.to(self._device, non_blocking=True)
        found = torch.empty(0, dtype=tensor.dtype, device=self._device)
        return found.set_(
            copied.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride()
        )

    def own(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`tensor` on the device in `dtype`, in memory that holds nothing else of the copy.

        Converted there: a copy that converts on the host would wait for it.
        """
        found = self.part(tensor)
        if found.dtype == dtype and _address(tensor) in self._copied:
            return found.clone()
        return found.to(dtype)


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
