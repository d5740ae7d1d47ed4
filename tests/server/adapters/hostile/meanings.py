"""What only the server can tell: files that are whole, and mean what cannot be, or must not."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from tests.server.adapters.hostile.changes import (
    Change,
    fill,
    header,
    instead,
    link_out,
    link_up,
    many,
    put,
    sealed,
    setting,
    weights,
)
from understudy.artifact import (
    CONFIG_FILE,
    TENSORS_FILE,
)

PREFIX = "base_model.model.model.layers.0.self_attn."
_A, _B = f"{PREFIX}q_proj.lora_A.weight", f"{PREFIX}q_proj.lora_B.weight"
MAGNITUDE = f"{PREFIX}q_proj.lora_magnitude_vector"
_FACTORS = f"{PREFIX}q_proj.ia3_l"
_ROWS = "base_model.model.model.embed_tokens.trainable_tokens_delta"
_NAN, _INF = float("nan"), float("inf")


def _values(of: str, key: str, says: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Cases that give one key of the configuration other values."""
    return {
        f"{key.replace('_', '-')}-{name}": (*setting(of, **{key: value}), says)
        for name, value in values.items()
    }


MEANINGS: dict[str, tuple[str, Change, str]] = {
    **_values("lora", "r", "r ", {
        "negative": -4, "zero": 0, "true": True, "text": "4", "fraction": 4.5,
        "absurd": 10**30, "null": None, "list": [4],
    }),
    **_values("lora", "r", "has rank 4", {"off-by-one": 5, "above-the-limit": 2**31 - 1}),
    **_values("lora", "lora_alpha", "lora_alpha is not a number above 0", {
        "zero": 0, "negative": -8, "text": "8", "null": None, "true": True,
    }),
    **_values("lora", "lora_alpha", "overflows in float32", {"huge": 1e308, "long": 9 * 10**39}),
    **_values("lora", "rank_pattern", "rank_pattern", {
        "list": [1], "bomb": {"(a+)+$": 1}, "negative": {"q_proj": -1}, "text": {"q_proj": "4"},
        "broken": {"[": 1}, "many": {f"x{i}": 1 for i in range(30_000)}, 
        "look-back": {"(?<=a)b": 1}, "long": {"a" * 100_000: 1},
    }),
    **_values("lora", "alpha_pattern", "alpha_pattern", {
        "bomb": {".*.*.*.*x": 1}, "groups": {"(x|x)*y": 1}, "repeats": {"x{1000}{1000}": 1},
        "many": {f"x{i}": 1 for i in range(30_000)},
    }),
    **_values("lora", "target_modules", "target module", {
        "unknown": ["q_proj", "k_prоj"], "many": ["q_proj"] * 50_000 + ["nowhere"],
        "path": ["../../q_proj"],
    }),
    **_values("lora", "target_modules", "target_modules must be", {"number": [1], "object": {}}),
    **_values("lora", "target_modules", "target_modules: expression", {
        "pattern-bomb": "(a+)+$", "pattern-ways": "(.|.)?" * 30, "pattern-maybe": ".?" * 60 + "x",
        "pattern-repeats": ".*.*.*.*x", "pattern-nested": "((.*)*)*", "pattern-back": r"(.*)\1*",
        "pattern-look": "(?=(.+)+$).*", "pattern-long": "a" * 100_000, "pattern-broken": "[z-a]",
    }),
    **_values("lora", "exclude_modules", "exclude_modules: expression", {"bomb": "(a|a)*$"}),
    **_values("lora", "layers_to_transform", "layers_to_transform", {"many": ["0"] * 50_000}),
    **_values("lora", "modules_to_save", "modules_to_save", {
        "many": [f"x{i}" for i in range(50_000)], "numbers": [1, 2], "text": "lm_head",
        "missing": ["lm_head"], "empty-name": [""],
    }),
    **_values("ia3", "feedforward_modules", "feedforward_modules", {
        "many": [f"x{i}" for i in range(50_000)], "pattern": "(a+)+$",
    }),
    **_values("lora", "peft_type", "peft_type", {
        "unserved": "BOFT", "null": None, "number": 7, "look-alike": "LОRA", "long": "L" * 100_000,
    }),
    **_values("lora", "task_type", "task_type", {"look-alike": "СAUSAL_LM", "list": ["CAUSAL_LM"]}),
    **_values("lora", "use_dora", "use_dora", {"untrue": True, "text": "no"}),
    **_values("lora", "bias", "bias", {"unknown": "some", "long": "x" * 100_000, "list": [[]]}),
    **_values("lora", "init_lora_weights", "init_lora_weights", {
        "pissa": "pissa", "long": "x" * 100_000,
    }),
    "target-parameters": (*setting(target_parameters=["x"]), "target_parameters"),
    "layer-replication": (*setting(layer_replication=[[0, 1]]), "layer_replication"),
    "key-unknown": (*setting(surprise=1), "key 'surprise' is unknown"),
    "key-long": (*setting("lora", **{"k" * 100_000: 1}), "is unknown"),
    "key-look-alike": (*setting(lora_аlpha=8), "is unknown"),
    "values-of-many-lists": (*setting(surprise=[[]] * 250_000), "key 'surprise' is unknown"),
    "method-of-the-manifest": ("lora", sealed(method="ia3"), "method is 'ia3'"),
    "rank-of-the-manifest": ("lora", sealed(rank=8), "rank is 8"),
    "tokens-of-the-manifest": ("prompt", sealed(num_virtual_tokens=6), "_tokens is 6"),
    "name-look-alike": ("lora", sealed(name="mіne"), "not allowed"),
    "name-of-the-base": ("lora", sealed(name="base"), "reserved"),
    "name-is-a-path": ("lora", sealed(name="../../mine"), "not allowed"),
    "name-long": ("lora", sealed(name="a" * 100_000), "not allowed"),
    "base-wrong": ("lora", sealed(base_fingerprint="f" * 64), "trained on base"),
    "base-long": ("lora", sealed(base_fingerprint="f" * 100_000), "trained on base"),
    "header-bomb": ("lora", header(many(40_000)), "header of 2"),
    "header-of-one-long-name": (
        "lora", header(json.dumps({"n" * 1_000_000: 1})), "header of 1000007 bytes",
    ),
    "many-tensors": ("lora", header(many(2000)), "unknown tensor"),
    "link-out-config": ("lora", lambda d: link_out(d / CONFIG_FILE), "symbolic link leads"),
    "link-out-tensors": ("lora", lambda d: link_out(d / TENSORS_FILE), "symbolic link leads"),
    "link-up": ("lora", instead(TENSORS_FILE, link_up), "symbolic link leads outside"),
    "link-to-a-device": (
        "lora", instead(TENSORS_FILE, lambda path: path.symlink_to("/dev/zero")), "symbolic link",
    ),
    "tensor-nan": (*weights(fill(_A, 0, _NAN)), "NaN or infinity"),
    "tensor-infinity": (*weights(fill(_B, -1, _INF)), "NaN or infinity"),
    "tensor-one-row-more": (*weights(put(_B, torch.ones(65, 4))), "shape [65, 4]"),
    "tensor-one-column-less": (*weights(put(_A, torch.ones(4, 63))), "shape [4, 63]"),
    "tensor-ranks-differ": (*weights(put(_B, torch.ones(64, 5))), "shape [64, 5]"),
    "tensor-turned": (*weights(put(_A, torch.ones(64, 4))), "shape [64, 4]"),
    "tensor-empty": (*weights(put(_A, torch.ones(0, 64))), "shape [0, 64]"),
    "tensor-three-dimensions": (*weights(put(_A, torch.ones(4, 64, 1))), "shape [4, 64, 1]"),
    "tensor-without-dimensions": (*weights(put(_A, torch.tensor(1.0))), "shape []"),
    "tensor-int8": (*weights(put(_A, torch.ones(4, 64, dtype=torch.int8))), "torch.int8"),
    "tensor-bool": (*weights(put(_A, torch.ones(4, 64, dtype=torch.bool))), "torch.bool"),
    "tensor-float8": (
        *weights(put(_A, torch.ones(4, 64).to(torch.float8_e4m3fn))), "torch.float8_e4m3fn",
    ),
    "tensor-too-large-for-the-base": (
        *weights(put(_A, torch.full((4, 64), 1e300, dtype=torch.float64))), "overflows",
    ),
    "tensor-missing": (*weights(lambda tensors: tensors.pop(_A)), "missing tensor"),
    "tensor-surplus": (*weights(put("surprise", torch.ones(1))), "unknown tensor 'surprise'"),
    "tensor-name-look-alike": (
        *weights(put(_A.replace("lora_A", "lorа_A"), torch.ones(4, 64))), "unknown tensor",
    ),
    "tensor-name-long": (*weights(put("x" * 50_000, torch.ones(1))), "unknown tensor"),
    "tensor-of-no-layer": (
        *weights(put(_A.replace(".0.", ".-1."), torch.ones(4, 64))), "has no linear",
    ),
    "no-tensors-at-all": (*weights(dict.clear), "holds no LoRA tensors"),
    "dora-magnitude-short": (*weights(put(MAGNITUDE, torch.ones(63)), "dora"), "shape [63]"),
    "dora-magnitude-nan": (*weights(fill(MAGNITUDE, 0, _NAN), "dora"), "NaN or infinity"),
    "dora-magnitude-missing": (
        *weights(lambda tensors: tensors.pop(MAGNITUDE), "dora"), "missing tensor",
    ),
    "dora-unsaid": (*setting("dora", use_dora=False), "use_dora"),
    "ia3-turned": (*weights(put(_FACTORS, torch.ones(1, 64)), "ia3"), "shape [1, 64]"),
    "ia3-infinity": (*weights(fill(_FACTORS, 0, _INF), "ia3"), "NaN or infinity"),
    "norm-short": (
        *weights(put("base_model.model.model.norm.ln_tuning_layers.weight", torch.ones(63)),
                  "norms"), "shape [63]",
    ),
    **_values("tokens", "token_indices", "token_indices", {
        "negative": [-1, 5], "beyond": [3, 320], "twice": [3, 3], "true": [True, 5], "text": "35",
        "huge": [3, 2**39], "many": list(range(100_000)),
    }),
    "tokens-one-row-less": (*weights(put(_ROWS, torch.ones(1, 64)), "tokens"), "shape [1, 64]"),
    "prompt-narrow": (*weights(put("prompt_embeddings", torch.ones(5, 63)), "prompt"), "[5, 63]"),
    "prompt-nan": (*weights(fill("prompt_embeddings", 7, _NAN), "prompt"), "NaN or infinity"),
    **_values("prompt", "num_virtual_tokens", "num_virtual_tokens", {
        "negative": -5, "zero": 0, "fills-the-context": 2048, "absurd": 10**30,
    }),
    "prompt-width": (*setting("prompt", token_dim=63), "token_dim 63"),
    "prompt-twice": (*setting("prompt", num_transformer_submodules=2), "submodules 2"),
    "prefix-one-token-less": (*setting("prefix", num_virtual_tokens=2), "shape [3,"),
    "prefix-layers": (*setting("prefix", num_layers=3), "num_layers 3"),
    "prefix-nan": (*weights(fill("prompt_embeddings", 1, _NAN), "prefix"), "NaN or infinity"),
}  # fmt: skip
