"""What `inspect` says of adapters, beside PEFT and plain arithmetic."""

import json
import re
from pathlib import Path
from typing import Any, cast

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny import make_adapter, make_base
from trainer.__main__ import main
from trainer.inspection.layers import BaseTensors, layer_of
from trainer.verbs.inspect import _cells
from understudy.artifact import TENSORS_FILE
from understudy.store import publish

_TASK = {"task_type": "CAUSAL_LM"}
_CONFIGS: dict[str, peft.PeftConfig] = {
    "lora": peft.LoraConfig(
        r=3,
        lora_alpha=5,
        target_modules=["q_proj", "v_proj", "embed_tokens"],
        rank_pattern={"v_proj": 2},
        alpha_pattern={"layers.1.self_attn.q_proj": 7},
        modules_to_save=["norm"],
        **_TASK,
    ),
    "stable": peft.LoraConfig(r=4, use_rslora=True, use_dora=True, target_modules="all-linear"),
    "ia3": peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[], **_TASK),
    "norms": peft.LNTuningConfig(target_modules=["norm"], **_TASK),
    "tokens": peft.TrainableTokensConfig(token_indices=[3, 90], **_TASK),
    "prompt": peft.PromptTuningConfig(num_virtual_tokens=3, **_TASK),
    "encoder": peft.PromptEncoderConfig(num_virtual_tokens=2, encoder_hidden_size=8, **_TASK),
    "prefix": peft.PrefixTuningConfig(num_virtual_tokens=3, **_TASK),
    "mood": peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS"),
}
# Of PEFT about a base without a name on the hub.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("inspect") / "base")


@pytest.fixture(scope="module")
def folder(base: Path) -> Path:
    for seed, (name, config) in enumerate(_CONFIGS.items()):
        make_adapter(base, base.parent / name, config, name=name, seed=seed)
    return base.parent


def _inspect(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["inspect", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("name", ["lora", "stable"])
def test_updates_are_those_that_peft_computes(
    capsys: pytest.CaptureFixture[str], base: Path, folder: Path, name: str
) -> None:
    found = _inspect(capsys, folder / name, "--base", base)
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    originals = {
        n: module.weight for n, module in model.named_modules() if hasattr(module, "weight")
    }
    adapted: Any = peft.PeftModel.from_pretrained(model, str(folder / name))
    layers = {layer["module"]: layer for layer in found["layers"]}
    checked = 0
    for full, module in adapted.named_modules():
        if not isinstance(module, peft.tuners.lora.LoraLayer):
            continue
        layer = layers[full.removeprefix("base_model.model.")]["low_rank"]
        delta = module.get_delta_weight("default").detach()
        values = torch.linalg.svdvals(delta)[: layer["rank"]]
        shares = values / values.sum()
        assert layer["rank"] == module.r["default"]
        assert layer["norm"] == pytest.approx(float(delta.norm()), rel=1e-4)
        assert layer["largest"] == pytest.approx(float(values[0]), rel=1e-4)
        entropy = -(shares * shares.log()).sum()
        assert layer["effective_rank"] == pytest.approx(float(entropy.exp()), rel=1e-3)
        original = originals[full.removeprefix("base_model.model.")]
        assert layer["relative"] == pytest.approx(float(delta.norm() / original.norm()), rel=1e-4)
        checked += 1
    assert checked == sum(layer["low_rank"] is not None for layer in found["layers"])
    assert checked == (5 if name == "lora" else 14)
    if name == "lora":
        saved = load_file(folder / name / TENSORS_FILE)["base_model.model.model.norm.weight"]
        moved = (saved - originals["model.norm"]).norm() / originals["model.norm"].norm()
        assert layers["model.norm"]["relative_change"]["weight"] == pytest.approx(float(moved))
        # PEFT saves the base's own embeddings beside their update: nothing has moved there.
        assert layers["model.embed_tokens"]["relative_change"] == {}


def test_a_change_from_zero_is_no_share() -> None:
    class Zeros:
        def get(self, name: str) -> torch.Tensor | None:
            return torch.zeros(3) if name == "a.bias" else None

    parts = {"base_layer.bias": torch.ones(3)}
    layer = layer_of("a", parts, {}, cast(BaseTensors, Zeros()))
    assert layer.relative_change == {"bias": None}
    assert _cells(layer)["of the base"] == "bias -"


@pytest.mark.parametrize("name", ["prompt", "encoder"])
def test_nearest_words(
    capsys: pytest.CaptureFixture[str], base: Path, folder: Path, name: str
) -> None:
    found = _inspect(capsys, folder / name, "--base", base, "--top", 4)
    words = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    vectors = load_file(folder / name / TENSORS_FILE)["prompt_embeddings"]
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert len(found["virtual_tokens"]) == len(vectors)
    for vector, token in zip(vectors, found["virtual_tokens"], strict=True):
        cosine = [float(torch.cosine_similarity(vector, word, dim=0)) for word in words]
        distance = [float((vector - word).norm()) for word in words]
        for key, values, sign in (("by_cosine", cosine, -1), ("by_distance", distance, 1)):
            order = sorted(range(len(words)), key=lambda i: sign * values[i])[:4]
            assert [word["id"] for word in token[key]] == order
            for word in token[key]:
                assert word["cosine"] == pytest.approx(cosine[word["id"]], abs=1e-5)
                assert word["distance"] == pytest.approx(distance[word["id"]], rel=1e-4)
                assert word["text"] == tokenizer.decode([word["id"]])
    norms = words.norm(dim=1)
    assert found["median_word_norm"] == pytest.approx(float(norms.median()))


def test_other_kinds(capsys: pytest.CaptureFixture[str], base: Path, folder: Path) -> None:
    words = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    tokens = _inspect(capsys, folder / "tokens", "--base", base)["trained_tokens"]
    stored = load_file(folder / "tokens" / TENSORS_FILE)
    rows = stored["base_model.model.model.embed_tokens.trainable_tokens_delta"]
    assert [token["id"] for token in tokens] == [3, 90]
    for token, row in zip(tokens, rows, strict=True):
        original = words[token["id"]]
        moved = float((row - original).norm() / original.norm())
        assert token["moved"] == pytest.approx(moved, rel=1e-5)

    scales = _inspect(capsys, folder / "ia3", "--base", base)["layers"]
    stored = load_file(folder / "ia3" / TENSORS_FILE)
    for layer, factors in zip(scales, stored.values(), strict=True):
        expected = float((factors - 1).norm() / torch.ones_like(factors).norm())
        assert layer["relative_change"]["ia3_l"] == pytest.approx(expected, rel=1e-5)

    prefix = _inspect(capsys, folder / "prefix", "--base", base)
    assert [token["by_cosine"] for token in prefix["virtual_tokens"]] == [[]] * 3
    states = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), str(folder / "prefix")
    ).get_prompt(batch_size=1)
    for layer, (keys, values, *_) in zip(prefix["layers"], states, strict=True):
        assert layer["norms"]["keys"] == pytest.approx(float(keys.norm()), rel=1e-5)
        assert layer["norms"]["values"] == pytest.approx(float(values.norm()), rel=1e-5)


@pytest.mark.parametrize("name", _CONFIGS)
def test_every_kind_is_printed(
    capsys: pytest.CaptureFixture[str], base: Path, folder: Path, tmp_path: Path, name: str
) -> None:
    publish(folder / name, tmp_path / "store", name)
    capsys.readouterr()
    assert main(["inspect", name, "--base", str(base), "--store", str(tmp_path / "store")]) == 0
    out = capsys.readouterr().out
    stored = load_file(folder / name / TENSORS_FILE)
    count = sum(tensor.numel() for tensor in stored.values())
    assert out.startswith(f"{name}: ")
    assert f"{count:,} parameters" in out.splitlines()[0]
    if name == "ia3":
        assert "factor change" in out
        assert not re.search("ia3_l|other tensors|effective rank|of the base", out)
    if any("lora" in key for key in stored):
        assert "effective rank of the updates: median" in out


def test_wrong_input(
    capsys: pytest.CaptureFixture[str], base: Path, folder: Path, tmp_path: Path
) -> None:
    other = make_base(tmp_path / "other", seed=5)
    capsys.readouterr()
    cases: list[tuple[list[object], str]] = [
        ([folder / "lora", "--base", other], "was trained on base 'base' with fingerprint"),
        ([folder / "lora", "--base", base, "--top", "0"], "--top 0 is not a number from 1"),
        (["../lora", "--base", base], "holds no adapter_config.json"),
        (["lora@x", "--base", base, "--store", folder], "'lora@x' is not in the store"),
    ]
    for arguments, message in cases:
        assert main(["inspect", *map(str, arguments)]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1
