"""What is set aside for an adapter is enough for it."""

from pathlib import Path

import peft
import pytest

from server.adapters.weights import tensors_of
from server.engine.placing import Placer
from server.models.loader import LoadedBase, load_base
from tests.server.engine.conftest import Tiny
from tests.server.engine.harness import read_adapter
from tests.tiny import make_adapter


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
