"""Merging an adapter into its base, by the command line."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from tests.tiny import make_adapter, make_base, make_model
from trainer.__main__ import main
from trainer.model import load_base
from understudy.artifact import base_fingerprint, read_manifest, seal
from understudy.store import publish

_TASK = {"task_type": "CAUSAL_LM"}
_CONFIGS: dict[str, peft.PeftConfig] = {
    "lora": peft.LoraConfig(r=2, target_modules="all-linear", **_TASK),
    "dora": peft.LoraConfig(r=2, use_dora=True, target_modules=["q_proj"], **_TASK),
    "ia3": peft.IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], **_TASK
    ),
    "words": peft.LoraConfig(r=2, target_modules=["embed_tokens", "q_proj"], **_TASK),
    "head": peft.LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["lm_head", "norm"], **_TASK
    ),
    "tokens": peft.TrainableTokensConfig(token_indices=[3, 5], **_TASK),
    "bias": peft.LoraConfig(r=2, lora_bias=True, target_modules=["q_proj"], **_TASK),
    "prompt": peft.PromptTuningConfig(num_virtual_tokens=5, **_TASK),
    "prefix": peft.PrefixTuningConfig(num_virtual_tokens=3, **_TASK),
    "mood": peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS"),
}
# Of PEFT about a base without a name on the hub.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("merge") / "base")


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=0,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    return make_model(tmp_path_factory.mktemp("merge") / "tied", config)


def _adapter(base: Path, name: str, quantization: str = "nf4") -> Path:
    folder = base.parent / f"{name}-{quantization}"
    if not folder.exists():
        make_adapter(base, folder, _CONFIGS[name], name=name, seed=1)
        manifest = read_manifest(folder)
        assert manifest is not None
        seal(folder, type(manifest)(**{**vars(manifest), "quantization": quantization}))
    return folder


def _merge(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()  # of making the adapter
    code = main(["merge", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@torch.no_grad()
def _difference(base: Path, adapter: Path, quantization: str, merged: Path) -> float:
    """Largest logit difference, relative, by transformers and PEFT alone."""
    ids = torch.tensor([[5, 77, 140, 9, 3, 201]])
    bare = load_base(base, quantization=quantization, dtype=torch.float32, device="cpu")
    expected = peft.PeftModel.from_pretrained(bare, str(adapter)).eval()(input_ids=ids).logits
    model: Any = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    found = model.eval()(input_ids=ids).logits
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    ("kind", "name", "quantization"),
    [
        ("base", "lora", "nf4"),
        ("base", "lora", "none"),
        ("base", "dora", "nf4"),
        ("base", "ia3", "nf4"),
        ("base", "head", "nf4"),
        # Merging into the one must not change the other, though the base has one weight for both.
        ("tied", "words", "nf4"),
        ("tied", "head", "nf4"),
        # And here the one weight stays one.
        ("tied", "tokens", "none"),
    ],
)
def test_a_merged_base_computes_what_base_and_adapter_do(
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    kind: str,
    name: str,
    quantization: str,
) -> None:
    base: Path = request.getfixturevalue(kind)
    adapter, out = _adapter(base, name, quantization), tmp_path / "new" / "merged"
    code, printed, _ = _merge(capsys, "--adapter", adapter, "--base", base, "--out", out, "--json")
    assert code == 0
    report = json.loads(printed)
    assert _difference(base, adapter, quantization, out) < 2e-5
    assert report["max_logit_difference"] < 2e-5
    assert report["greedy_agreement"] == report["same_continuations"] == 1
    assert report["fingerprint"] == base_fingerprint(out) != base_fingerprint(base)
    assert (report["requantized"] is None) == (quantization == "none")
    written = json.loads((out / "config.json").read_text())
    assert "quantization_config" not in written
    assert written["use_cache"] is True
    assert written["tie_word_embeddings"] == (name == "tokens")
    assert json.loads((out / "merge.json").read_text()).items() <= report.items()
    assert str(tmp_path) not in "".join(p.read_text() for p in out.glob("*.json"))
    text = "wait for the next one"
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (base, out)]
    assert tokenizers[0](text)["input_ids"] == tokenizers[1](text)["input_ids"]
    assert [path.name for path in out.parent.iterdir()] == ["merged"]


def test_int8_and_a_store_reference(
    capsys: pytest.CaptureFixture[str], base: Path, tmp_path: Path
) -> None:
    """LLM.int8 rounds inputs, so the merged weights differ from it more than by rounding."""
    store, out = tmp_path / "store", tmp_path / "merged"
    publish(_adapter(base, "head", "int8"), store, "head")
    code, printed, _ = _merge(
        capsys, "--adapter", "head@latest", "--store", store, "--base", base, "--out", out,
        "--min-agreement", "0.8",
    )  # fmt: skip
    assert code == 0
    assert printed.startswith(f"{out}: base with head@")
    assert "quantized anew as int8" in printed
    report = json.loads((out / "merge.json").read_text())
    assert 1e-4 < report["max_logit_difference"] <= report["tolerance"] == 0.1


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--weights", "original"], "try --weights dequantized"),
        (["--dtype", "bfloat16", "--tolerance", "1e-4"], "try --dtype float32"),
    ],
)
def test_beyond_the_tolerance_nothing_is_written(
    capsys: pytest.CaptureFixture[str], base: Path, tmp_path: Path, extra: list[str], message: str
) -> None:
    out = tmp_path / "merged"
    code, printed, err = _merge(
        capsys, "--adapter", _adapter(base, "dora"), "--base", base, "--out", out, *extra
    )
    assert (code, printed) == (1, "")
    assert err.startswith("error: nothing was written: logits differ by ")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("prompt", "is prompt_tuning: its 5 virtual tokens stand in front of the prompt"),
        ("prefix", "is prefix_tuning: its 3 virtual tokens"),
        ("mood", "has a classification head"),
        ("bias", "merges into no weights: Impossible to merge LoRA with `lora_bias=True`"),
    ],
)
def test_what_cannot_merge_is_refused(
    capsys: pytest.CaptureFixture[str], base: Path, tmp_path: Path, name: str, message: str
) -> None:
    adapter = _adapter(base, name)
    code, _, err = _merge(capsys, "--adapter", adapter, "--base", base, "--out", tmp_path / "x")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_wrong_input(
    capsys: pytest.CaptureFixture[str], base: Path, tied: Path, tmp_path: Path
) -> None:
    adapter, out = _adapter(base, "lora"), tmp_path / "x"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    cases: list[tuple[list[object], str]] = [
        ([adapter, tied, out], "was trained on base 'base' with fingerprint"),
        ([adapter, base, tmp_path / "full"], "exists; name a new folder"),
        ([adapter, base, base], "lies in --base"),
        ([adapter, base, base / "new"], "lies in --base"),
        ([adapter, base, adapter / "a" / "b"], "lies in --adapter"),
        ([adapter, base, "/proc/none/new"], "--out: '/proc/none/new' cannot be written: "),
        ([tmp_path, base, out], "no adapter's folder"),
        (["nobody", base, out], "no such directory"),
        ([adapter, tmp_path / "full", out], "is not a model directory"),
        ([adapter, base, out, "--tolerance", "2"], "--tolerance 2 is not in [0, 1]"),
    ]
    for (found, over, to, *extra), message in cases:
        code, _, err = _merge(
            capsys, "--adapter", found, "--base", over, "--out", to, "--store", tmp_path / "no",
            *extra,
        )  # fmt: skip
        assert (code, err.count("\n")) == (2, 1)
        assert message in err
        assert not out.exists()
        assert not (base / "new").exists()
