"""What is set aside for an adapter is enough for it."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from server.adapters.artifact import read_weights
from server.adapters.tensor_file import TensorFile, read_tensor_file
from server.adapters.weights import tensors_of
from server.engine.adapter_copy import AdapterCopy
from server.engine.placing import Placer
from server.models.loader import LoadedBase, load_base
from tests.server.engine.conftest import Tiny
from tests.server.engine.harness import read_adapter
from tests.tiny import make_adapter
from understudy.artifact import read_json_object


@pytest.fixture(scope="module")
def half(tiny: Tiny) -> LoadedBase:
    return load_base(tiny.base, quantization="none", dtype="bfloat16")


def _sizes(base: LoadedBase, path: Path) -> tuple[int, int]:
    """What is counted before, and what it takes."""
    placer = Placer(base.decoder, base.dtype, base.device)
    weights = read_adapter(path, base.info)
    placed = placer.place((path.name, "v1"), weights)
    return placer.num_bytes(weights), sum(tensor.nbytes for tensor in tensors_of(placed))


def test_no_kind_takes_more_than_was_counted(tiny: Tiny, half: LoadedBase) -> None:
    for name, path in tiny.adapters.items():
        counted, taken = _sizes(half, path)
        assert taken <= counted, name


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_in_float32_on_any_base(tiny: Tiny, half: LoadedBase, tmp_path: Path) -> None:
    norms = peft.LNTuningConfig(target_modules=["input_layernorm", "norm"], task_type="CAUSAL_LM")
    head = peft.PromptTuningConfig(num_virtual_tokens=1, task_type="SEQ_CLS")
    tokens = peft.TrainableTokensConfig(token_indices=list(range(60)), task_type="CAUSAL_LM")
    for name, config in {"norms": norms, "head": head, "tokens": tokens}.items():
        path = make_adapter(tiny.base, tmp_path / name, config, name=name, seed=1, num_labels=50)
        counted, taken = _sizes(half, path)
        assert taken <= counted <= 3 * taken, name


def test_a_file_is_copied_at_once_and_not_kept(tiny: Tiny, half: LoadedBase) -> None:
    """As on CUDA: the same numbers, from one copy of the file's tensors, which is gone then."""
    placer = Placer(half.decoder, half.dtype, half.device)
    for name, path in tiny.adapters.items():
        file = _read(path)
        config = read_json_object(path / "adapter_config.json")
        weights = read_weights(config["peft_type"].lower(), config, file.tensors, half.info)
        plain = placer.place((name, "v1"), weights)
        own = [t for t in tensors_of(weights) if _memory(t) == _memory(file.data)]
        one = copy.copy(placer)
        with _Copies() as copies:
            one._copy = AdapterCopy(tensors_of(weights), half.device)
        assert copies.sizes.count(file.data.nbytes) == (len(own) > 1), name
        placed = one._place((name, "v1"), weights)
        copied = {_memory(whole) for whole in one._copy._copied.values()}
        assert len(copied) == len(copies.sizes)
        for tensor in tensors_of(placed):
            assert _memory(tensor) not in copied, f"{name}: keeps the copy of all alive"
        for got, want in zip(tensors_of(placed), tensors_of(plain), strict=True):
            assert torch.equal(got, want), name


def test_what_is_large_or_of_little_use_is_copied_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = torch.arange(100, dtype=torch.float32)
    cpu = torch.device("cpu")
    few, one, most = [file[:20], file[30:40]], [file], [file[:20].view(4, 5).t(), file[50:]]
    assert not AdapterCopy(few, cpu)._copied
    assert not AdapterCopy(one, cpu)._copied
    copied = AdapterCopy(most, cpu)
    assert len(copied._copied) == 1
    for tensor in (*most, *few):
        assert copied.part(tensor).equal(tensor)
        assert copied.own(tensor, torch.float32).equal(tensor)
        assert _memory(copied.part(tensor)) != _memory(file)
    monkeypatch.setattr("server.engine.adapter_copy._COPIED_AT_ONCE", 399)
    assert not AdapterCopy(most, cpu)._copied


class _Copies(TorchDispatchMode):
    """Notes the bytes of each tensor that is brought somewhere."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.name() == "aten::_to_copy":
            self.sizes.append(out.nbytes)
        return out


def _read(path: Path) -> TensorFile:
    return read_tensor_file(
        path / "adapter_model.safetensors",
        max_bytes=1 << 30,
        max_header_bytes=1 << 20,
        check_size=lambda _: None,
        pin_memory=False,
        breathe=lambda: None,
    )


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
