"""Every method: how much it trains, that all of it learns, resuming, and what is written."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file

from server.models.loader import load_base as load_for_serving
from tests.server.engine.kinds import check_against_peft, load_kernels
from tests.trainer.conftest import WriteConfig
from tests.trainer.method_jobs import (
    GPT2,
    METHODS,
    QUANTIZED,
    job_of,
    make_bases,
    method_config,
)
from tests.trainer.test_train import train
from trainer import checkpoint, methods
from trainer.__main__ import main
from trainer.build import load_base as load_shared
from trainer.build import make_job
from trainer.config.not_offered import NOT_OFFERED
from trainer.errors import ConfigError
from trainer.export import Exported, check_artifact, probes, write_artifact
from trainer.job import Job
from trainer.methods.masters import train_in_float32
from trainer.model import load_base, load_tokenizer
from trainer.preflight import Prepared
from understudy.artifact import base_fingerprint

# PEFT warns of norms, and bitsandbytes of the types that it casts to.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

IDS = torch.tensor([[5, 17, 40, 9, 33, 61, 9]])


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_bases(tmp_path_factory.mktemp("methods"))


def export(job: Job, prepared: Prepared, directory: Path) -> Exported:
    fingerprint = base_fingerprint(Path(job.config.base))
    return write_artifact(job.model, job.config, prepared, fingerprint, directory)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    model.eval()
    found: torch.Tensor = model(input_ids=IDS).logits
    return found


# Those whose parameters take part in the base's own arithmetic.
IN_BFLOAT16 = ("prefix", "ia3", "tokens", "ln", "norms_and_head", "bitfit")
CASES = [
    *(("qwen", method, "none", "float32") for method in METHODS),
    *(("qwen", method, kind, "float32") for kind in ("nf4", "int8") for method in QUANTIZED),
    *(("qwen", method, "nf4", "bfloat16") for method in IN_BFLOAT16),
    *(("gpt2", m, "nf4" if m in QUANTIZED else "none", "float32") for m in GPT2),
]


@pytest.mark.parametrize(("layout", "method", "quantization", "dtype"), CASES)
def test_all_it_says_learns_and_is_read_back(
    layout: str,
    method: str,
    quantization: str,
    dtype: str,
    bases: dict[str, Path],
    tmp_path: Path,
) -> None:
    config = method_config(bases[layout], METHODS[method], quantization=quantization, dtype=dtype)
    chosen = methods.METHODS[config.method.type]
    job, prepared = job_of(config)
    assert sum(p.numel() for p in job.parameters.values()) == prepared.num_trainable
    assert {p.dtype for p in job.parameters.values()} == {torch.float32}
    start = job.tensors()
    for _ in range(2):
        job.train_step()
    for name, tensor in job.tensors().items():
        assert not torch.equal(tensor, start[name]), name

    exported = export(job, prepared, tmp_path / "adapter")
    trained = logits(job.model)
    difference = check_artifact(job.model, chosen, exported, prepared.objective, probes(prepared))
    # An LSTM's product for one row of a batch is not that for all of them, to the last bit.
    assert difference == 0 or (method == "p_tuning_lstm" and difference < 1e-4)
    if method == "full":
        return
    files = {path.name for path in exported.directory.iterdir()}
    assert files >= {"adapter_config.json", "adapter_model.safetensors", "understudy.json"}
    plain = load_base(
        bases[layout], quantization=quantization, dtype=getattr(torch, dtype), device="cpu"
    )
    bare = logits(plain)
    assert not torch.equal(trained, bare)
    again, _ = job_of(config)
    again.train_step()
    assert torch.equal(logits(chosen.detach(again.model)), bare)


@pytest.mark.parametrize(
    ("method", "quantization"),
    [(m, "nf4" if m in QUANTIZED else "none") for m in METHODS],
)
def test_stopped_and_resumed_gives_the_same_bits(
    method: str, quantization: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    config = method_config(bases["qwen"], METHODS[method], quantization=quantization)
    whole, prepared = job_of(config)
    while not whole.finished:
        whole.train_step()
    expected = export(whole, prepared, tmp_path / "whole").manifest.content_hash

    # Beside others, in modules of its own: that changes neither it nor the base.
    shared = load_shared(config, "CAUSAL_LM")
    before = {name: tensor.clone() for name, tensor in shared.model.state_dict().items()}
    stopped = make_job(config, prepared, shared, alone=False)
    for _ in range(2):
        stopped.train_step()
    for name, tensor in shared.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    identity = checkpoint.Identity(config="c", data="d", base="b")
    saved = {"mine": checkpoint.Saved(identity, stopped.state(), 0)}
    checkpoint.save(tmp_path / "checkpoint.pt", saved)
    torch.manual_seed(7)
    resumed, prepared = job_of(config)
    loaded = checkpoint.load(tmp_path / "checkpoint.pt", {"mine": identity})
    resumed.load_state(loaded["mine"].state)
    while not resumed.finished:
        resumed.train_step()
    assert export(resumed, prepared, tmp_path / "resumed").manifest.content_hash == expected


@pytest.mark.parametrize(
    ("layout", "quantization", "kernels"),
    [
        ("qwen", "none", "torch"),
        ("qwen", "nf4", "native"),
        ("qwen", "int8", "torch"),
        ("gpt2", "nf4", "deterministic"),
        ("gpt2", "none", "torch"),
    ],
)
def test_the_server_computes_what_peft_does(
    layout: str, quantization: str, kernels: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    """All of them, as they were written, in one batch with each other and the bare base."""
    adapters = {}
    for method in METHODS.keys() - {"full"} if layout == "qwen" else set(GPT2) - {"full"}:
        if quantization != "none" and method not in QUANTIZED:
            continue
        config = method_config(bases[layout], METHODS[method], quantization=quantization)
        job, prepared = job_of(config)
        for _ in range(2):
            job.train_step()
        adapters[method] = export(job, prepared, tmp_path / method).directory
    base = load_kernels(bases[layout], quantization, kernels)
    check_against_peft(base, bases[layout], adapters, prompts_each=1)


def test_full_fine_tuning_makes_a_base(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path, base: Path
) -> None:
    output = {"dir": str(tmp_path / "run")}
    config = write_config(method={"type": "full"}, quantization="none", output=output)
    finished = train(config, capsys)
    made = tmp_path / "run" / "base"
    assert finished["artifact"] == str(made)
    assert finished["result"] == "base"
    assert finished["version"] is None
    assert finished["validation_loss"] < finished["validation_loss_before"]
    assert finished["content_hash"] == base_fingerprint(made) != base_fingerprint(base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (made / name).read_bytes() == (base / name).read_bytes()
    run = json.loads((made / "run.json").read_text())
    assert run["base_fingerprint"] == base_fingerprint(base)
    assert "{{ input }}" in run["prompt_template"]
    assert json.loads((made / "config.json").read_text())["use_cache"] is True
    assert "fine-tuned in float32" in (made / "README.md").read_text()
    for path in made.iterdir():
        if path.suffix != ".safetensors":
            assert str(tmp_path) not in path.read_text()

    check_against_peft(load_for_serving(made, quantization="nf4"), made, {}, prompts_each=1)
    again = train(config, capsys, "--overwrite")
    assert again["content_hash"] == finished["content_hash"]
    # A base made so is a base to train on.
    args = ["--set", f"base={made}", "--set", f"output.dir={tmp_path / 'second'}"]
    train(config, capsys, "--overwrite", *args, "--set", "method={type: ia3}")
    written = tmp_path / "second" / "adapter" / "understudy.json"
    assert json.loads(written.read_text())["base_fingerprint"] == finished["content_hash"]
    assert main(["verify", str(written.parent)]) == 0


def test_a_prefix_of_text_is_the_text(bases: dict[str, Path]) -> None:
    """Keys and values of the base's own words: what follows is as if they stood there."""
    text = "the late train left"
    for layout, quantization in (("qwen", "nf4"), ("gpt2", "none"), ("llama", "none")):
        tokenizer = load_tokenizer(bases[layout])
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        method = {
            "type": "prefix_tuning",
            "num_virtual_tokens": len(ids),
            "init": "text",
            "init_text": text,
        }
        job, _ = job_of(method_config(bases[layout], method, quantization=quantization))
        found = logits(job.model)
        plain = job.model.get_base_model()
        whole = torch.cat((torch.tensor([ids]), IDS), dim=1)
        with torch.no_grad():
            expected = plain(input_ids=whole).logits[:, len(ids) :]
        assert torch.allclose(found, expected, atol=1e-4)


def test_prompt_starts_at_class_labels(bases: dict[str, Path]) -> None:
    """One virtual token each, the mean of the label's tokens; drawn words behind them."""
    tokenizer = load_tokenizer(bases["llama"])
    named = {
        "type": "prompt_tuning",
        "num_virtual_tokens": 4,
        "init": "class_labels",
        "init_labels": ["note", " rain fell"],
    }
    for method in (named, {**named, "init_labels": None}):
        config = method_config(bases["llama"], method)
        data = bases["llama"].parent / "labels.jsonl"
        rows = [
            {"input": f"row {i}", "completion": ("note", " rain fell")[i % 2]} for i in range(8)
        ]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        changes = {"train": str(data), "validation": 0, "template_name": "summarize"}
        config = method_config(bases["llama"], method, data=changes)
        job, prepared = job_of(config)
        labels = prepared.method.init_labels
        assert set(labels) == {"note", " rain fell"}
        words = job.model.get_base_model().get_input_embeddings().weight
        found = job.model.get_parameter("prompt_encoder.default.embedding.weight")
        for row, label in zip(found, labels, strict=False):
            ids = tokenizer(label, add_special_tokens=False)["input_ids"]
            assert torch.equal(row, words[ids].mean(0))
        for row in found[2:]:
            assert (words == row).all(1).any()


def test_completions_that_are_no_labels(bases: dict[str, Path]) -> None:
    method = {"type": "prompt_tuning", "num_virtual_tokens": 4, "init": "class_labels"}
    with pytest.raises(ConfigError, match=r"more than 4 different ones.*method\.init_labels"):
        job_of(method_config(bases["llama"], method))


@pytest.mark.parametrize(
    ("layout", "names", "feedforward"),
    [
        ("llama", {"k_proj", "v_proj", "down_proj"}, {"down_proj"}),
        ("qwen", {"k_proj", "v_proj", "down_proj"}, {"down_proj"}),
        ("gpt2", {"attn.c_attn", "mlp.c_proj"}, {"mlp.c_proj"}),
    ],
)
def test_ia3_scales_what_the_paper_does(
    layout: str, names: set[str], feedforward: set[str], bases: dict[str, Path], tmp_path: Path
) -> None:
    job, prepared = job_of(method_config(bases[layout], {"type": "ia3"}))
    tensors = load_file(
        export(job, prepared, tmp_path / "a").directory / "adapter_model.safetensors"
    )
    for name, tensor in tensors.items():
        (end,) = (n for n in names if name.endswith(f"{n}.ia3_l"))
        assert tensor.shape[0 if end in feedforward else 1] == 1, name
        assert torch.equal(tensor, torch.ones_like(tensor))
    assert len(tensors) == 2 * len(names)


def test_ia3_of_a_layout_it_does_not_know(bases: dict[str, Path]) -> None:
    outline = job_of(method_config(bases["gpt2"], {"type": "full"}))[0].model
    outline.config.model_type = "unheard-of"
    settings = method_config(bases["gpt2"], {"type": "ia3"}).method
    with pytest.raises(ConfigError, match="no targets for a 'unheard-of' base; name them"):
        methods.METHODS["ia3"].bind(settings, outline, load_tokenizer(bases["gpt2"]))


def test_small_updates_of_a_coarse_base_add_up() -> None:
    """In bfloat16 1 + 0.001 is 1: a thousand such steps would lead nowhere."""
    norm = torch.nn.LayerNorm(4, dtype=torch.bfloat16)
    before = norm(torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.bfloat16))
    train_in_float32([norm], torch.bfloat16)
    optimiser = torch.optim.SGD(norm.parameters(), lr=1.0)
    for _ in range(1000):
        norm.weight.grad = torch.full((4,), -1e-3)
        optimiser.step()
    assert torch.allclose(norm.weight, torch.full((4,), 2.0), atol=1e-3)
    after = norm(torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.bfloat16))
    assert after.dtype == torch.bfloat16
    assert torch.equal(after, 2 * before)
    norm(torch.ones(1, 4, dtype=torch.bfloat16)).sum().backward()
    assert norm.bias.grad.dtype == torch.float32


def test_what_peft_has_is_offered_or_answered_by_name() -> None:
    offered = {"lora", "prompt_tuning", "p_tuning", "prefix_tuning", "ia3"}
    offered |= {"trainable_tokens", "ln_tuning"}
    assert offered <= methods.METHODS.keys()
    assert {kind.value.lower() for kind in peft.PeftType} - NOT_OFFERED.keys() == offered
    assert not methods.METHODS.keys() & NOT_OFFERED.keys()


@pytest.mark.parametrize(("projection", "rate"), [(False, 1e-2), (True, 5e-5)])
def test_a_projection_learns_at_a_rate_of_its_own(
    projection: bool, rate: float, bases: dict[str, Path]
) -> None:
    method = {"type": "prefix_tuning", "projection": projection}
    config = method_config(bases["llama"], method, optimiser={"max_steps": 1})
    assert config.optimiser.learning_rate == rate
