"""The engine with FlashInfer's documented semantics in the library's place, against PEFT."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Gemma2Config

from server.errors import StartupError
from server.models import loader
from server.models.loader import LoadedBase, load_base
from tests.server.engine.conftest import Tiny
from tests.server.engine.harness import Driver
from tests.server.engine.kinds import check_against_peft
from tests.server.engine.tape import Tape
from tests.server.kernels.flashinfer_double import library
from tests.tiny import make_model


@pytest.fixture
def tape() -> Tape:
    return Tape()


@pytest.fixture(autouse=True)
def _double(monkeypatch: pytest.MonkeyPatch, tape: Tape) -> None:
    def launch(work: Callable[[], Any], given: object) -> Any:
        with torch.utils._python_dispatch._disable_current_modes():
            return tape.launch(work, given)

    monkeypatch.setattr(loader, "load_flashinfer", lambda device, dtype: library(launch))


@pytest.fixture
def base(tiny: Tiny) -> LoadedBase:
    return load_base(tiny.base, quantization="none", kernels="torch", attention="flashinfer")


def test_a_mixed_batch_equals_peft(tiny: Tiny, base: LoadedBase) -> None:
    """Chunks of prompts and single rows in one step, virtual tokens and prefixes among them."""
    wanted = ("narrow", "dora", "prompt", "prefix")
    check_against_peft(
        base, tiny.base, {name: tiny.adapters[name] for name in wanted}, step_tokens=13
    )


def test_replays_see_the_pages_of_their_own_step(tiny: Tiny, base: LoadedBase, tape: Tape) -> None:
    answers = []
    for capture in (tape, None):
        driver = Driver(base, capture=capture, block_size=4)
        inboxes = [driver.add(range(1, 2 + length), max_tokens=9 + length) for length in (1, 9, 17)]
        driver.run()
        answers.append([inbox.finished.token_ids for inbox in inboxes])
    assert answers[0] == answers[1]
    assert tape.lengths


def test_a_library_that_fails_is_named_with_what_to_choose(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that cannot compile its kernels here: when the server starts, in one line."""

    def fail(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError(2, "No such file or directory", "ninja")

    broken = SimpleNamespace(
        BatchDecodeWithPagedKVCacheWrapper=fail, BatchPrefillWithPagedKVCacheWrapper=fail
    )
    monkeypatch.setattr(loader, "load_flashinfer", lambda device, dtype: broken)
    with pytest.raises(StartupError) as error:
        load_base(tiny.base, quantization="none", kernels="torch", attention="flashinfer")
    assert str(error.value).endswith(
        "does not run with attention 'flashinfer': [Errno 2] No such file or directory: 'ninja'; "
        "choose 'auto'"
    )


def test_windows_and_soft_caps_by_layer(tmp_path: Any, tape: Tape) -> None:
    """Gemma 2: every second layer has a window, and all have a soft cap. The base's own forward
    pass is what the probe at start compares with."""
    config = Gemma2Config(
        vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, sliding_window=8,
        max_position_embeddings=256, initializer_range=0.2, eos_token_id=0, bos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    directory = make_model(tmp_path / "base", config)
    found = []
    for attention, capture in (("flashinfer", tape), ("auto", None)):
        base = load_base(directory, quantization="none", kernels="torch", attention=attention)
        driver = Driver(base, capture=capture, block_size=4)
        inboxes = [driver.add(range(1, 2 + length), max_tokens=20) for length in (3, 30)]
        driver.run()
        found.append([inbox.finished.token_ids for inbox in inboxes])
    assert found[0] == found[1]
    assert tape.lengths
