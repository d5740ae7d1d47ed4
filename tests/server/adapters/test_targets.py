"""Tensors of modules that a configuration does not target, which PEFT would drop, are refused."""

from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.adapters.ia3 import read_ia3
from server.adapters.lora import read_lora
from server.errors import AdapterRefusedError
from server.types import BaseInfo

_NAMES = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
_PATHS = [f"model.layers.{layer}.{name}" for layer in range(3) for name in _NAMES]
_BASE = BaseInfo(
    name="tiny", fingerprint="f", architecture="LlamaForCausalLM", quantization="none",
    weight_form="dense", dtype="float32", device="cpu", max_context_tokens=64, vocab_size=100,
    hidden_size=4, num_parameters=0, resident_bytes=0, int8_threshold=0.0, deterministic=False,
    linear_shapes=dict.fromkeys(_PATHS, (4, 4)),
)  # fmt: skip


def _adapted(config: peft.PeftConfig) -> set[str]:
    """The modules that PEFT adapts."""
    model = torch.nn.Module()
    for path in _PATHS:
        parent = model
        *names, last = path.split(".")
        for name in names:
            if not hasattr(parent, name):
                parent.add_module(name, torch.nn.Module())
            parent = getattr(parent, name)
        parent.add_module(last, torch.nn.Linear(4, 4))
    try:
        adapted = peft.inject_adapter_in_model(config, model)
    except ValueError:
        return set()
    return {path for path in _PATHS if hasattr(adapted.get_submodule(path), "base_layer")}


def _tensors(paths: set[str]) -> dict[str, torch.Tensor]:
    names = [f"base_model.model.{path}.lora_{part}.weight" for path in paths for part in "AB"]
    return {name: torch.ones(4, 4) for name in names}


@settings(max_examples=40, deadline=None)
@given(
    targets=st.lists(
        st.sampled_from(
            ["q_proj", "v_proj", "mlp.down_proj", "layers.1.self_attn.q_proj", *_PATHS]
        ),
        min_size=1,
        max_size=3,
    ),
    layers=st.none() | st.integers(0, 2) | st.lists(st.integers(0, 2), max_size=2),
    excluded=st.lists(st.sampled_from(["v_proj", "2.self_attn.q_proj"]), max_size=2),
    other=st.sampled_from(_PATHS),
)
def test_as_peft_chooses(targets: list[str], layers: Any, excluded: list[str], other: str) -> None:
    options: dict[str, Any] = {
        "target_modules": targets,
        "layers_to_transform": layers,
        "exclude_modules": excluded or None,
    }
    adapted = _adapted(peft.LoraConfig(r=4, **options))
    config = {"r": 4, "lora_alpha": 4, **options}
    if adapted:
        read_lora(config, _tensors(adapted), _BASE)
    if other not in adapted:
        with pytest.raises(AdapterRefusedError) as error:
            read_lora(config, _tensors(adapted | {other}), _BASE)
        assert not adapted or other in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_modules": ["q_proj"]}, "leaves out by target_modules"),
        ({"layers_to_transform": [0, 2]}, "leaves out by layers_to_transform"),
        ({"layers_to_transform": 1}, "leaves out by layers_to_transform"),
        ({"exclude_modules": ["v_proj"]}, "leaves out by exclude_modules"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform must be a number"),
        # Expressions are not looked at: the tensors tell.
        ({"target_modules": r".*\.[qv]_proj"}, ""),
        ({"target_modules": "all-linear"}, ""),
        ({"layers_to_transform": [1], "layers_pattern": "layers"}, ""),
        ({"exclude_modules": ".*nothing"}, ""),
    ],
)
def test_what_is_left_out(changes: dict[str, Any], message: str) -> None:
    config = {"r": 4, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], **changes}
    tensors = _tensors({path for path in _PATHS if path.endswith(("q_proj", "v_proj"))})
    if not message:
        assert len(read_lora(config, tensors, _BASE).linears) == 6
        return
    with pytest.raises(AdapterRefusedError, match=message):
        read_lora(config, tensors, _BASE)


def test_ia3() -> None:
    config = {"target_modules": ["v_proj"], "feedforward_modules": []}
    tensors = {f"base_model.model.{path}.ia3_l": torch.ones(4, 1) for path in _PATHS}
    with pytest.raises(AdapterRefusedError, match="leaves out by target_modules"):
        read_ia3(config, tensors, _BASE)
