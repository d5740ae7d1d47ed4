"""A safetensors file in memory: its tensors are those of the file, and every number is checked."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from server.adapters import tensor_file
from server.adapters.tensor_file import TensorFile, read_tensor_file
from server.errors import AdapterRefusedError

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def _read(path: Path) -> TensorFile:
    return read_tensor_file(
        path, max_bytes=1 << 20, max_header_bytes=1 << 16, check_size=lambda _: None,
        pin_memory=False, breathe=lambda: None,
    )  # fmt: skip


def _file(path: Path, tensors: dict[str, torch.Tensor]) -> TensorFile:
    save_file(tensors, path)
    return _read(path)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    """Types in turn, a scalar and an empty one among them."""
    kinds: tuple[Any, ...] = (*_FLOATS, torch.int64, torch.uint8, torch.float8_e4m3fn)
    found = {f"t{i}": torch.arange(i * 5).to(kinds[i % len(kinds)]) for i in range(15)}
    return found | {"scalar": torch.tensor(3.0), "grid": torch.rand(3, 4), "pair": torch.rand(2, 4)}


def test_tensors_are_those_of_the_file(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    found = _file(tmp_path / "t.safetensors", tensors).tensors
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert found[name].view(-1).view(torch.uint8).equal(tensor.view(-1).view(torch.uint8))


def test_finite_is_let_pass(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    _file(tmp_path / "t.safetensors", tensors).check_finite()
    # Largest numbers, whose sum would be infinite.
    large = {str(dtype): torch.full((9,), torch.finfo(dtype).max, dtype=dtype) for dtype in _FLOATS}
    _file(tmp_path / "t.safetensors", large).check_finite()


@pytest.mark.parametrize("at", [0, 4, 10])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", _FLOATS)
def test_the_tensor_at_fault_is_named(
    tmp_path: Path,
    tensors: dict[str, torch.Tensor],
    dtype: torch.dtype,
    value: float,
    at: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tensor_file, "_NUMBERS_AT_ONCE", 7)
    wrong = torch.ones(11, dtype=dtype)
    wrong[at] = value
    file = _file(tmp_path / "t.safetensors", tensors | {"t9b": wrong})
    with pytest.raises(AdapterRefusedError, match="tensor 't9b' holds NaN or infinity"):
        file.check_finite()


def test_where_numbers_do_not_lie_on_multiples_of_their_size(tmp_path: Path) -> None:
    """An odd number of bytes in front of them."""
    values = torch.tensor([1.0, float("nan"), 2.0])
    header = json.dumps(
        {
            "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
            "b": {"dtype": "F32", "shape": [3], "data_offsets": [3, 15]},
        }
    ).encode()
    path = tmp_path / "t.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"abc" + values.numpy().tobytes())
    file = _read(path)
    assert file.tensors["b"].numpy().tobytes() == values.numpy().tobytes()
    with pytest.raises(AdapterRefusedError, match="tensor 'b' holds NaN"):
        file.check_finite()


@pytest.mark.parametrize("dtype", _FLOATS)
def test_one_of_very_many(tmp_path: Path, dtype: torch.dtype) -> None:
    """Wherever it is in what the processor takes at once; a long name is cut short."""
    size, name = 100_003, "x" * 60_000
    for at in (0, 31, 4096, 65_537, size - 1):
        values = torch.zeros(size, dtype=dtype)
        values[at] = float("nan")
        with pytest.raises(AdapterRefusedError, match=r"holds NaN or infinity$") as error:
            _file(tmp_path / "t.safetensors", {name: values}).check_finite()
        assert len(str(error.value)) < 300
