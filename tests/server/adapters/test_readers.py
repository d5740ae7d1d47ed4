"""PEFT's format is either reproduced or refused, key by key and tensor by tensor."""

import importlib
import json
import math
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch

from server.adapters.artifact import READERS, ArtifactLimits, load_artifact
from server.adapters.ia3 import read_ia3
from server.adapters.lora import read_lora
from server.errors import AdapterRefusedError
from server.types import BaseInfo

_LAYERS = ("model.layers.0.", "model.layers.1.")
_SHAPES = {
    prefix + name: shape
    for prefix in _LAYERS
    for name, shape in {
        "self_attn.q_proj": (8, 6),
        "self_attn.v_proj": (4, 6),
        "mlp.down_proj": (6, 12),
    }.items()
}
_BASE = BaseInfo(
    name="tiny", fingerprint="f", architecture="LlamaForCausalLM", quantization="none",
    weight_form="dense", dtype="float32", device="cpu", max_context_tokens=64, vocab_size=100,
    hidden_size=6, num_parameters=0, resident_bytes=0, int8_threshold=0.0, deterministic=False,
    linear_shapes=_SHAPES,
    biased_linears=frozenset({"model.layers.0.self_attn.v_proj"}),
)  # fmt: skip


def _config(**changes: Any) -> dict[str, Any]:
    """A configuration as PEFT saves it."""
    config = peft.LoraConfig(
        r=2, lora_alpha=3, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    ).to_dict()
    config["target_modules"] = sorted(config["target_modules"])
    return config | changes


def _tensors(rank: int = 2, targets: tuple[str, ...] = ("q_proj", "v_proj")) -> dict[str, Any]:
    tensors = {}
    for path, (out_features, in_features) in _SHAPES.items():
        if path.rpartition(".")[2] in targets:
            tensors[f"base_model.model.{path}.lora_A.weight"] = torch.randn(rank, in_features)
            tensors[f"base_model.model.{path}.lora_B.weight"] = torch.randn(out_features, rank)
    return tensors


_Q0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def _refusal(config: dict[str, Any], tensors: dict[str, Any], reader: Any = read_lora) -> str:
    with pytest.raises(AdapterRefusedError) as error:
        reader(config, tensors, _BASE)
    return str(error.value)


def test_lora() -> None:
    tensors = _tensors()
    weights = read_lora(_config(), tensors, _BASE)
    assert (weights.rank, len(weights.linears)) == (2, 4)
    update = weights.linears["model.layers.0.self_attn.q_proj"].low_rank
    assert update is not None
    assert update.scaling == 1.5
    assert torch.equal(update.a, tensors[_Q0])
    assert weights.size_bytes == sum(tensor.nbytes for tensor in tensors.values())


def test_rank_stabilised() -> None:
    weights = read_lora(_config(use_rslora=True), _tensors(), _BASE)
    assert all(c.low_rank.scaling == 3 / math.sqrt(2) for c in weights.linears.values())


def test_rank_and_alpha_patterns_match_as_in_peft() -> None:
    """Each pattern against the scaling that PEFT itself computes."""
    patterns = {
        "rank_pattern": {"v_proj": 4, r"^model\.layers\.1\.self_attn\.q_proj": 1},
        "alpha_pattern": {r"layers.0.*q_proj": 7, "self_attn.v_proj": 5},
    }
    model = torch.nn.Module()
    for path, (out_features, in_features) in _SHAPES.items():
        parent = model
        *names, last = path.split(".")
        for name in names:
            if not hasattr(parent, name):
                parent.add_module(name, torch.nn.Module())
            parent = getattr(parent, name)
        parent.add_module(last, torch.nn.Linear(in_features, out_features))
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "v_proj"], **patterns)
    adapted = peft.inject_adapter_in_model(config, model)
    tensors = {
        "base_model.model." + name.replace(".default", ""): tensor
        for name, tensor in adapted.state_dict().items()
        if "lora_" in name
    }
    weights = read_lora(_config(**patterns), tensors, _BASE)
    assert weights.rank == 4
    for path, change in weights.linears.items():
        theirs = adapted.get_submodule(path)
        assert change.low_rank.scaling == theirs.scaling["default"]
        assert change.low_rank.a.shape[0] == theirs.r["default"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "lora_magnitude_vector': adapter_config.json says use_dora True"),
        ({"use_dora": "yes"}, "use_dora 'yes' is not true or false"),
        ({"bias": "all"}, "bias 'all': adapter_model.safetensors lacks the bias of"),
        ({"bias": "lora_only"}, "lacks the bias of 'model.layers.0.self_attn.v_proj'"),
        ({"bias": "most"}, "bias 'most' is not one of none, all, lora_only"),
        ({"lora_bias": True}, "lora_B.bias': adapter_config.json says lora_bias True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"modules_to_save": "lm_head"}, "modules_to_save must be a list of names"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"target_parameters": ["x"]}, "target_parameters"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"use_qalora": True}, "use_qalora"),
        ({"megatron_config": {"a": 1}}, "megatron_config"),
        ({"arrow_config": {"a": 1}}, "arrow_config"),
        ({"kasa_config": {"a": 1}}, "kasa_config"),
        ({"ensure_weight_tying": True}, None),
        ({"ensure_weight_tying": 1}, "ensure_weight_tying 1 is not true or false"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' changed the base"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights 'loftq'"),
        ({"some_new_idea": False}, "key 'some_new_idea' is unknown"),
        ({"task_type": "TOKEN_CLS"}, "task_type 'TOKEN_CLS' is not served; CAUSAL_LM and SEQ_CLS"),
        ({"r": 0}, "r 0 is not a whole number from 1"),
        ({"r": True}, "r True"),
        ({"r": "8"}, "r '8'"),
        ({"lora_alpha": float("inf")}, "lora_alpha"),
        ({"lora_alpha": -1}, "lora_alpha"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"r": 3}, "has rank 2, adapter_config.json says 3"),
        ({"rank_pattern": {"q_proj": 5}}, "has rank 2, adapter_config.json says 5"),
        ({"rank_pattern": []}, None),
        ({"rank_pattern": [1]}, "rank_pattern must be an object"),
        ({"alpha_pattern": {"(a|a)*b": 1}}, "pattern '(a|a)*b' is not served"),
        ({"alpha_pattern": {".*.*.*x": 1}}, "pattern '.*.*.*x'"),
        ({"alpha_pattern": {"[": 1}}, "pattern '['"),
        ({"alpha_pattern": {"q_proj": "big"}}, "alpha_pattern['q_proj'] is not a number"),
        ({"target_modules": ["q_proj", "k_proj"]}, "'k_proj': the base has no such module"),
        ({"target_modules": ["q_proj", "v_proj", "down_proj"]}, "lacks 'model.layers.0.mlp.down"),
    ],
    ids=str,
)
def test_lora_configurations(changes: dict[str, Any], message: str | None) -> None:
    if message is None:
        read_lora(_config(**changes), _tensors(), _BASE)
    else:
        assert message in _refusal(_config(**changes), _tensors())


@pytest.mark.parametrize("default", ["eva", "gaussian", "orthogonal", True, False])
def test_initialisations_that_leave_the_base_alone(default: Any) -> None:
    read_lora(_config(init_lora_weights=default), _tensors(), _BASE)


def _with(name: str, tensor: torch.Tensor) -> dict[str, Any]:
    """The tensors of a LoRA with one more on its first v_proj."""
    return _tensors() | {f"base_model.model.model.layers.0.self_attn.{name}": tensor}


@pytest.mark.parametrize(
    ("changes", "extra", "message"),
    [
        ({}, ("v_proj.lora_magnitude_vector", torch.ones(4)), "says use_dora False"),
        ({}, ("v_proj.lora_B.bias", torch.ones(4)), "says lora_bias False"),
        ({}, ("v_proj.base_layer.bias", torch.ones(4)), "unknown tensor"),
        ({"bias": "lora_only"}, ("v_proj.base_layer.bias", torch.ones(5)), "shape [5]"),
        ({"bias": "lora_only"}, ("q_proj.base_layer.bias", torch.ones(8)), "linear has no bias"),
        ({}, ("o_proj.weight", torch.ones(4, 6)), "unknown tensor"),
        ({}, ("v_proj.weight", torch.ones(4, 6)), "does not name its module in modules_to_save"),
        (
            {"modules_to_save": ["v_proj"]},
            ("v_proj.weight", torch.ones(4, 6)),
            "missing tensor 'base_model.model.model.layers.0.self_attn.v_proj.bias'",
        ),
        ({"modules_to_save": ["q_proj"]}, ("q_proj.weight", torch.ones(8, 6)), "train only one"),
        ({"modules_to_save": ["q_proj"]}, ("q_proj.weight", torch.ones(6, 8)), "shape [6, 8]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tensors_beside_the_updates(
    changes: dict[str, Any], extra: tuple[str, torch.Tensor], message: str
) -> None:
    assert message in _refusal(_config(**changes), _with(*extra))


def test_bias_and_magnitude() -> None:
    bias = torch.randn(4)
    tensors = _with("v_proj.base_layer.bias", bias)
    change = read_lora(_config(bias="lora_only"), tensors, _BASE).linears[
        "model.layers.0.self_attn.v_proj"
    ]
    assert change.bias is not None
    assert torch.equal(change.bias, bias)
    assert change.low_rank is not None


@pytest.mark.parametrize("key", ["lora_magnitude_vector", "lora_magnitude_vector.weight"])
def test_magnitudes_of_either_form(key: str) -> None:
    tensors = _tensors()
    for path, (out_features, _) in _SHAPES.items():
        if path.endswith(("q_proj", "v_proj")):
            tensors[f"base_model.model.{path}.{key}"] = torch.ones(out_features)
    weights = read_lora(_config(use_dora=True), tensors, _BASE)
    assert all(change.magnitude is not None for change in weights.linears.values())
    assert weights.size_bytes == sum(tensor.nbytes for tensor in tensors.values())


def _ia3_config(**changes: Any) -> dict[str, Any]:
    config = peft.IA3Config(
        target_modules=["v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
        task_type="CAUSAL_LM",
    ).to_dict()
    for key in ("target_modules", "feedforward_modules"):
        config[key] = sorted(config[key])
    return config | changes


def _ia3_tensors() -> dict[str, Any]:
    return {
        f"base_model.model.{path}.ia3_l": torch.ones(shape)
        for path, (out_features, in_features) in _SHAPES.items()
        for name, shape in (("v_proj", (out_features, 1)), ("down_proj", (1, in_features)))
        if path.endswith(name)
    }


@pytest.mark.parametrize(
    ("changes", "extra", "message"),
    [
        ({"feedforward_modules": []}, {}, "shape [1, 12], the base needs [6, 1]"),
        ({"feedforward_modules": ".*down.*"}, {}, "must be a list of names"),
        ({"target_modules": ["q_proj"]}, {}, "lacks 'model.layers.0.self_attn.q_proj'"),
        ({"r": 8}, {}, "key 'r' is unknown"),
        ({}, {"base_model.model.lm_head.ia3_l": torch.ones(100, 1)}, "has no linear 'lm_head'"),
        ({}, {"x": torch.ones(1)}, "unknown tensor 'x'"),
        ({"modules_to_save": ["score"]}, {}, "holds no module 'score'"),
    ],
    ids=str,
)
def test_ia3_configurations(changes: dict[str, Any], extra: dict[str, Any], message: str) -> None:
    weights = read_ia3(_ia3_config(), _ia3_tensors(), _BASE)
    assert len(weights.linears) == 4
    assert message in _refusal(_ia3_config(**changes), _ia3_tensors() | extra, read_ia3)


def test_every_other_method_of_peft_is_refused_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(safetensors.torch.save({}))
    limits = ArtifactLimits(max_bytes=1 << 20, max_lora_rank=64, max_host_bytes=1 << 20)
    for method in peft.PeftType:
        name = method.value.lower()
        if name in READERS:
            continue
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": method.value}))
        with pytest.raises(AdapterRefusedError) as error:
            load_artifact(tmp_path, _BASE, limits, "x")
        assert f"peft_type {method.value!r} is not served" in str(error.value)
        assert ("peft.convert_to_lora" in str(error.value)) == _converts(name), name


def _converts(name: str) -> bool:
    """Whether PEFT says so in the method's own layers."""
    try:
        layers = importlib.import_module(f"peft.tuners.{name}.layer")
    except ModuleNotFoundError:
        return False
    return any(
        "supports_lora_conversion" in vars(item)
        for item in vars(layers).values()
        if isinstance(item, type) and item.__module__ == layers.__name__
    )


def test_layers_to_transform_explains_missing_tensors() -> None:
    tensors = {name: t for name, t in _tensors().items() if "layers.1" in name}
    read_lora(_config(layers_to_transform=[1]), tensors, _BASE)
    assert "lacks 'model.layers.0" in _refusal(_config(), tensors)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(2, 5), "shape [2, 5], the base needs [any, 6]"),
        (torch.zeros(0, 6), "shape [0, 6]"),
        (torch.zeros(2, 6, 1), "shape [2, 6, 1]"),
        (torch.zeros(2, 6, dtype=torch.int32), "dtype torch.int32"),
        (torch.full((2, 6), 1e300, dtype=torch.float64), "overflows in float32"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_lora_tensors(tensor: torch.Tensor, message: str) -> None:
    refusal = _refusal(_config(), _tensors() | {_Q0: tensor})
    assert message in refusal
    assert "layers.0.self_attn.q_proj" in refusal


def test_scaled_weights_that_overflow() -> None:
    name = _Q0.replace("lora_A", "lora_B")
    tensors = _tensors() | {name: torch.full((8, 2), 3e38)}
    assert "overflows" in _refusal(_config(), tensors)
    read_lora(_config(lora_alpha=1), tensors, _BASE)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
            "unknown tensor",
        ),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias", "unknown tensor"),
        ("base_model.model.lm_head.weight", "unknown tensor"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", "unknown tensor"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", "unknown tensor"),
        ("base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight", "has no linear"),
        ("base_model.model.lm_head.lora_A.weight", "has no linear 'lm_head'"),
    ],
)
def test_unknown_tensors(name: str, message: str) -> None:
    assert message in _refusal(_config(), _tensors() | {name: torch.zeros(2, 6)})


def test_missing_tensors() -> None:
    tensors = _tensors()
    del tensors[_Q0.replace("lora_A", "lora_B")]
    assert "missing tensor" in _refusal(_config(), tensors)
    assert "holds no LoRA tensors" in _refusal(_config(), {})
