"""Tensors of modules that a configuration does not target, which PEFT would drop, are refused."""

import re
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from server.adapters.ia3 import read_ia3
from server.adapters.lora import read_lora
from server.adapters.patterns import compile_pattern
from server.errors import AdapterRefusedError
from server.types import BaseInfo
from tests.tiny import make_base

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
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You have passed exclude_modules")
            adapted = peft.inject_adapter_in_model(config, model)
    except ValueError:
        return set()
    return {path for path in _PATHS if hasattr(adapted.get_submodule(path), "base_layer")}


def _tensors(paths: set[str]) -> dict[str, torch.Tensor]:
    names = [f"base_model.model.{path}.lora_{part}.weight" for path in paths for part in "AB"]
    return {name: torch.ones(4, 4) for name in names}


def _check(options: dict[str, Any], other: str) -> None:
    """What PEFT adapts is read; with tensors of `other` beside, or without them, it is refused."""
    try:
        adapted = _adapted(peft.LoraConfig(r=4, **options))
    except ValueError:
        adapted = set()
    config = {"r": 4, "lora_alpha": 4, **options}
    if adapted:
        assert read_lora(config, _tensors(adapted), _BASE).linears.keys() == adapted
    if other not in adapted:
        with pytest.raises(AdapterRefusedError) as error:
            read_lora(config, _tensors(adapted | {other}), _BASE)
        assert not adapted or other in str(error.value)
    elif len(adapted) > 1:
        with pytest.raises(AdapterRefusedError, match=rf"lacks '{re.escape(other)}'"):
            read_lora(config, _tensors(adapted - {other}), _BASE)


_NAMED = ["q_proj", "v_proj", "mlp.down_proj", "layers.1.self_attn.q_proj", *_PATHS]
_EXPRESSIONS = [
    r".*\.(q_proj|v_proj)",
    r".*\.[qv]_proj",
    r"^model\.layers\.\d+\.(?:self_attn|mlp)\..*proj$",
    r"model\.layers\.[12]\.(self_attn\.q_proj|mlp\.down_proj)",
    r"(.*\.)?down_proj",
    r".*(0|1)\.self_attn.*",
    r".*q_proj|.*v_proj",
    r".*?layers\.\d{1,2}\.\w+\.[^q]_proj",
    "q_proj",
    "all-linear",
    "All-Linear",
]


@settings(max_examples=40, deadline=None)
@given(
    targets=st.lists(st.sampled_from(_NAMED), min_size=1, max_size=3),
    layers=st.none() | st.integers(0, 2) | st.lists(st.integers(0, 2), max_size=2),
    pattern=st.sampled_from([None, [], "layers", ["layers"], ["h", "lay.*"], "h", "model", "h|l"]),
    excluded=st.lists(st.sampled_from(["v_proj", "2.self_attn.q_proj"]), max_size=2)
    | st.sampled_from([r".*\.v_proj", r"model\.layers\.(0|2)\..*", "v_proj"]),
    other=st.sampled_from(_PATHS),
)
def test_as_peft_chooses(
    targets: list[str], layers: Any, pattern: Any, excluded: list[str] | str, other: str
) -> None:
    options: dict[str, Any] = {
        "target_modules": targets,
        "layers_to_transform": layers,
        "layers_pattern": None if layers is None else pattern,
        "exclude_modules": excluded or None,
    }
    _check(options, other)


@pytest.mark.parametrize("targets", _EXPRESSIONS)
@pytest.mark.parametrize("excluded", [None, ["v_proj"], r".*\.1\..*"])
def test_expressions_as_peft_matches_them(targets: str, excluded: Any) -> None:
    for other in _PATHS:
        _check({"target_modules": targets, "exclude_modules": excluded}, other)


def test_all_linears_are_not_the_head(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_base(tmp_path / "tiny"))
    linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    shapes = {name: (linear.out_features, linear.in_features) for name, linear in linears.items()}
    base = replace(_BASE, linear_shapes=shapes, head="lm_head")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear"))
    tensors = peft.get_peft_model_state_dict(adapted)
    config = {"r": 4, "lora_alpha": 4, "target_modules": "all-linear"}
    assert read_lora(config, tensors, base).linears.keys() == shapes.keys() - {"lm_head"}
    out, inner = shapes["lm_head"]
    head = {"A": torch.ones(4, inner), "B": torch.ones(out, 4)}
    tensors |= {f"base_model.model.lm_head.lora_{ab}.weight": t for ab, t in head.items()}
    with pytest.raises(AdapterRefusedError, match=r"model\.lm_head.*leaves out by target_modules"):
        read_lora(config, tensors, base)


@pytest.mark.parametrize(
    ("key", "expression"),
    [
        ("target_modules", "(a+)+$"),
        ("target_modules", "(?:.|.)?" * 20),
        ("target_modules", ".?" * 40),
        ("target_modules", ".*.*.*.*x"),
        ("target_modules", "((.*)*)*"),
        ("target_modules", "(?i).*Q_PROJ"),
        ("target_modules", "(?=.*q).*"),
        ("target_modules", r"(.*)\1"),
        ("target_modules", "a" * 1001),
        ("target_modules", "[z-a]_proj"),
        ("exclude_modules", "(a|a)*$"),
        ("layers_pattern", "(?P<idx>x)"),
        ("layers_pattern", ".*.*.*"),
    ],
)
def test_expressions_that_are_not_matched(key: str, expression: str) -> None:
    config = {"r": 4, "lora_alpha": 4, "target_modules": ["q_proj"], "layers_to_transform": None}
    config |= {"layers_to_transform": [0]} if key == "layers_pattern" else {}
    with pytest.raises(AdapterRefusedError, match=f"{key}: expression .*; write module names"):
        read_lora(config | {key: expression}, _tensors({_PATHS[0]}), _BASE)


def test_the_slowest_expression_that_is_matched() -> None:
    """A path of the longest kind takes milliseconds, not ages."""
    pattern = compile_pattern("key", r"[\w.]*[\w.]*[\w.]*(a|.|p)?\w?0")
    began = time.process_time()
    assert not pattern.fullmatch("model.layers.31.block_sparse_moe.experts.7.down_proj")
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_modules": ["q_proj"]}, "leaves out by target_modules"),
        ({"layers_to_transform": [0, 2]}, "leaves out by layers_to_transform"),
        ({"layers_to_transform": 1}, "leaves out by layers_to_transform"),
        ({"exclude_modules": ["v_proj"]}, "leaves out by exclude_modules"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform must be a number"),
        ({"target_modules": r".*\.[qv]_proj"}, ""),
        ({"exclude_modules": ".*nothing"}, ""),
        ({"layers_to_transform": [0, 1, 2], "layers_pattern": "layers"}, ""),
        ({"target_modules": r".*\.q_proj"}, "leaves out by target_modules"),
        ({"exclude_modules": r".*\.1\..*"}, "leaves out by exclude_modules"),
        ({"layers_to_transform": [0, 1, 2], "layers_pattern": "h"}, "leaves out by layers_to_tr"),
        ({"target_modules": "all-linear", "layers_to_transform": [1]}, "target_modules is a list"),
        ({"target_modules": 7}, "target_modules must be a list of names"),
        ({"layers_to_transform": [1], "layers_pattern": [2]}, "layers_pattern must be expressions"),
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
