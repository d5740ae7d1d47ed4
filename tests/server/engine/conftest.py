"""Tiny bases and adapters for the engine's tests."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import peft
import pytest
import torch

from server.models.loader import LoadedBase, load_base
from tests.server.engine.harness import HeldAdapter, read_adapter
from tests.tiny import make_adapter, make_base


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny products gain nothing from threads, and tests share the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Tiny:
    """A base directory and adapters trained for it, by name."""

    base: Path
    adapters: dict[str, Path]


ADAPTERS: dict[str, peft.PeftConfig] = {
    "narrow": peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    ),
    "wide": peft.LoraConfig(
        r=8,
        lora_alpha=4,
        use_rslora=True,
        target_modules="all-linear",
        rank_pattern={"layers.1.self_attn.o_proj": 3},
        alpha_pattern={"up_proj": 2},
        task_type="CAUSAL_LM",
    ),
    "late": peft.LoraConfig(
        r=5,
        lora_alpha=10,
        target_modules=["gate_proj", "k_proj"],
        layers_to_transform=[1],
        task_type="CAUSAL_LM",
    ),
    "dora": peft.LoraConfig(
        r=3, use_dora=True, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"
    ),
    "ia3": peft.IA3Config(
        target_modules=["v_proj", "gate_proj", "down_proj"],
        feedforward_modules=["gate_proj", "down_proj"],
        task_type="CAUSAL_LM",
    ),
    "tuned": peft.LNTuningConfig(
        target_modules=["input_layernorm", "norm"],
        modules_to_save=["lm_head"],
        task_type="CAUSAL_LM",
    ),
    "words": peft.LoraConfig(
        r=3, target_modules=["embed_tokens", "lm_head"], task_type="CAUSAL_LM"
    ),
    "tokens": peft.LoraConfig(
        r=2,
        target_modules=["q_proj"],
        trainable_token_indices={"embed_tokens": [7, 90, 8], "lm_head": [250, 3]},
        task_type="CAUSAL_LM",
    ),
    "prompt": peft.PromptTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM"),
    "encoded": peft.PromptEncoderConfig(
        num_virtual_tokens=3, encoder_hidden_size=16, task_type="CAUSAL_LM"
    ),
    "prefix": peft.PrefixTuningConfig(num_virtual_tokens=21, task_type="CAUSAL_LM"),
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    root = tmp_path_factory.mktemp("engine")
    base = make_base(root / "base")
    adapters = {
        name: make_adapter(base, root / name, config, name=name, seed=seed)
        for seed, (name, config) in enumerate(ADAPTERS.items())
    }
    return Tiny(base, adapters)


@pytest.fixture(scope="session")
def loaded(tiny: Tiny) -> LoadedBase:
    """The tiny base without quantization. One engine at a time may use it."""
    return load_base(tiny.base, quantization="none")


@pytest.fixture
def held(tiny: Tiny, loaded: LoadedBase) -> dict[str, HeldAdapter]:
    """A lease on each adapter."""
    return {
        name: HeldAdapter(name, read_adapter(path, loaded.info))
        for name, path in tiny.adapters.items()
    }


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of optional test data; skips without it."""
    folder = os.environ.get("UNDERSTUDY_TEST_DATA")
    if not folder:
        pytest.skip("UNDERSTUDY_TEST_DATA names no folder of test data")
    return Path(folder)
