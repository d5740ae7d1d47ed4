"""Norms, embeddings, output head and trained tokens: read as PEFT would, or refused."""

from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
import transformers

from server.adapters.artifact import READERS, ArtifactLimits, load_artifact
from server.adapters.weights import AdapterWeights
from server.errors import AdapterRefusedError
from server.models.loader import LoadedBase, load_base
from tests.tiny import make_adapter, make_base, make_model
from understudy.artifact import read_json_object

_P = "base_model.model."
_E, _H = f"{_P}model.embed_tokens", f"{_P}lm_head"
_DELTA = ".token_adapter.trainable_tokens_delta"


class Case:
    """A base, and adapters for it as PEFT saves them, before and after changes."""

    def __init__(self, root: Path, base: Path) -> None:
        self.root = root
        self.directory = base
        self.loaded: LoadedBase = load_base(base, quantization="none")

    def artifact(self, config: peft.PeftConfig) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The configuration and the tensors."""
        directory = self.root / "adapter"
        make_adapter(self.directory, directory, config, name="a", seed=0)
        tensors = safetensors.torch.load_file(directory / "adapter_model.safetensors")
        return read_json_object(directory / "adapter_config.json"), tensors

    def read(self, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> AdapterWeights:
        return READERS[config["peft_type"].lower()](config, tensors, self.loaded.info)

    def refusal(self, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> str:
        with pytest.raises(AdapterRefusedError) as error:
            self.read(config, tensors)
        return str(error.value)


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Case:
    root = tmp_path_factory.mktemp("untied")
    return Case(root, make_base(root / "base"))


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Case:
    root = tmp_path_factory.mktemp("tied")
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, bos_token_id=None, eos_token_id=0,
        tie_word_embeddings=True,
    )  # fmt: skip
    return Case(root, make_model(root / "base", config))


def _lora(**options: Any) -> peft.LoraConfig:
    options.setdefault("target_modules", ["q_proj"])
    return peft.LoraConfig(r=2, task_type="CAUSAL_LM", **options)


def _tokens(**options: Any) -> peft.TrainableTokensConfig:
    return peft.TrainableTokensConfig(token_indices=[7, 3], task_type="CAUSAL_LM", **options)


def test_what_is_tied_in_the_base(untied: Case, tied: Case) -> None:
    for config in (_lora(trainable_token_indices=[7, 3]), _tokens()):
        weights = tied.read(*tied.artifact(config))
        rows = weights.embedding.rows
        assert rows.token_ids.tolist() == [3, 7]
        head = weights.linears["lm_head"].rows
        assert torch.equal(head.weight, rows.weight)
        assert "lm_head" not in untied.read(*untied.artifact(config)).linears
    # Whole modules are tied only where that is asked for.
    for ensure in (False, True):
        config = _lora(modules_to_save=["embed_tokens"], ensure_weight_tying=ensure)
        weights = tied.read(*tied.artifact(config))
        assert weights.embedding.replacement.shape == (320, 64)
        assert ("lm_head" in weights.linears) == ensure


def test_copies_of_the_bases_own_weights_are_dropped(untied: Case, tmp_path: Path) -> None:
    config, tensors = untied.artifact(_lora(target_modules=["embed_tokens", "lm_head"]))
    own = {f"{_E}.base_layer.weight", f"{_H}.base_layer.weight"}
    assert own <= tensors.keys()
    weights = untied.read(config, tensors)
    assert weights.embedding.replacement is None
    assert weights.linears["lm_head"].replacement is None
    expected = sum(tensor.nbytes for name, tensor in tensors.items() if name not in own)
    assert weights.size_bytes == expected
    # From a file all tensors are views of one piece of memory: what is dropped is let go.
    limits = ArtifactLimits(max_bytes=1 << 30, max_lora_rank=8, max_host_bytes=1 << 30)
    version = load_artifact(untied.root / "adapter", untied.loaded.info, limits, "a")
    assert version.weights.embedding.low_rank.a.untyped_storage().nbytes() == 2 * 320 * 4


def test_other_weights_of_the_base_are_used(untied: Case, tied: Case) -> None:
    """A copy that differs from this base's weight stands in for it, below the update."""
    for case in (untied, tied):
        config, tensors = case.artifact(_lora(target_modules=["embed_tokens"]))
        other = tensors[f"{_E}.base_layer.weight"] + 1
        tensors[f"{_E}.base_layer.weight"] = other
        weights = case.read(config, tensors)
        assert torch.equal(weights.embedding.replacement, other)
        assert weights.embedding.low_rank is not None
        assert ("lm_head" in weights.linears) == case.loaded.info.tied
    config, tensors = untied.artifact(_lora(target_modules=["lm_head"]))
    tensors[f"{_H}.base_layer.weight"] += 1
    merged = untied.read(config, tensors).linears["lm_head"].replacement.weight
    a, b = tensors[f"{_H}.lora_A.weight"], tensors[f"{_H}.lora_B.weight"]
    torch.testing.assert_close(merged, tensors[f"{_H}.base_layer.weight"] + 8 / 2 * (b @ a))


def test_refusals(untied: Case, tied: Case) -> None:
    config, tensors = untied.artifact(_lora(trainable_token_indices=[7, 3]))

    def refused(**changes: Any) -> str:
        return untied.refusal(config | changes, tensors)

    key = "trainable_token_indices"
    for wrong in ([7, 7], [7, 320], [-1, 3], [True, 3], [[7], 3], "7", [], {"embed_tokens": 7}):
        assert key in refused(trainable_token_indices=wrong)
    assert "has shape [2, 64], the base needs [3, 64]" in refused(trainable_token_indices=[1, 2, 3])
    assert "module 'q_proj'" in refused(trainable_token_indices={"q_proj": [7, 3]})
    assert "missing tensor" in refused(trainable_token_indices={"lm_head": [7, 3]})
    assert f"unknown tensor '{_E}{_DELTA}'" in refused(trainable_token_indices=None)
    tensors[f"{_E}.weight"] = torch.zeros(320, 64)
    assert "modules_to_save, and some of its tokens" in refused(modules_to_save=["embed_tokens"])
    tensors[f"{_E}.weight"] = torch.zeros(321, 64)
    assert "has shape [321, 64], the base needs [320, 64]" in refused()

    config, tensors = tied.artifact(_tokens())
    tensors[f"{_H}.trainable_tokens_delta"] = tensors[f"{_H}.trainable_tokens_delta"] + 1
    assert "differ, the base ties them" in tied.refusal(config, tensors)
    config, tensors = tied.artifact(
        _lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    )
    tensors[f"{_H}.weight"] = tensors[f"{_H}.weight"] + 1
    assert "differ, adapter_config.json ties them" in tied.refusal(config, tensors)
    del tensors[f"{_H}.weight"]
    assert f"missing tensor '{_H}.weight'" in tied.refusal(config, tensors)
    config, tensors = tied.artifact(
        _lora(target_modules=["embed_tokens"], ensure_weight_tying=True)
    )
    tensors[f"{_H}.lora_B.weight"] = tensors[f"{_H}.lora_B.weight"] + 1
    assert "does not hold one update" in tied.refusal(config, tensors)


def test_refused_embedding_updates(untied: Case) -> None:
    config, tensors = untied.artifact(_lora(target_modules=["embed_tokens", "q_proj"]))
    a = tensors.pop(f"{_E}.lora_embedding_A")
    assert f"missing tensor '{_E}.lora_embedding_A'" in untied.refusal(config, tensors)
    tensors[f"{_E}.lora_embedding_A"] = a[:, :-1]
    assert "has shape [2, 319]" in untied.refusal(config, tensors)
    tensors[f"{_E}.lora_embedding_A"] = a
    assert "lora_magnitude_vector" in untied.refusal(config | {"use_dora": True}, tensors)
    both = [f"{_E}.lora_embedding_A", f"{_E}.lora_embedding_B"]
    rest = {name: tensor for name, tensor in tensors.items() if name not in both}
    assert "lacks 'model.embed_tokens'" in untied.refusal(config, rest)
    ranked = config | {"rank_pattern": {"embed_tokens": 5}}
    assert "has rank 2, adapter_config.json says 5" in untied.refusal(ranked, tensors)


def test_refused_norms(untied: Case) -> None:
    config, tensors = untied.artifact(
        peft.LNTuningConfig(target_modules=["norm", "input_layernorm"], task_type="CAUSAL_LM")
    )
    name = f"{_P}model.norm.ln_tuning_layers.weight"
    weight = tensors.pop(name)
    assert "target module 'norm'" in untied.refusal(config, tensors)
    assert "lacks 'model.norm'" in untied.refusal(config, tensors)
    tensors[name] = weight[:-1]
    assert "has shape [63], the base needs [64]" in untied.refusal(config, tensors)
    tensors[name] = weight
    tensors[f"{_E}.ln_tuning_layers.weight"] = torch.zeros(320, 64)
    assert "unknown tensor" in untied.refusal(config, tensors)
    del tensors[f"{_E}.ln_tuning_layers.weight"]
    tensors[f"{_P}model.norm.weight"] = weight
    saved = config | {"modules_to_save": ["model.norm"]}
    assert "'model.norm' is in modules_to_save and changed" in untied.refusal(saved, tensors)
    assert "unknown tensor" in untied.refusal(config, tensors)
    config, tensors = untied.artifact(_lora(modules_to_save=["norm"]))
    del tensors[f"{_P}model.layers.0.input_layernorm.weight"]
    assert "missing tensor" in untied.refusal(config, tensors)
