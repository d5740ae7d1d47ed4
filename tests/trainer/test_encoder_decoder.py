"""Encoder-decoders: the loss is transformers' own, every method trains them, and no server takes
them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from transformers import AutoModelForSeq2SeqLM, BartConfig, PretrainedConfig, T5Config

from server.adapters.artifact import ArtifactLimits, load_artifact
from server.errors import AdapterRefusedError, StartupError
from server.models import loader as server_loader
from tests.tiny import make_tokenizer
from tests.trainer.conftest import WriteConfig, make_rows
from tests.trainer.test_train import train
from trainer.__main__ import main
from trainer.config import TrainConfig
from trainer.config_file import parse_config
from trainer.data import Example
from trainer.examples import InMemory
from trainer.generated import Answerer
from trainer.log import read_log
from trainer.methods import METHODS, Start
from trainer.model import load_base, load_outline, load_tokenizer
from trainer.objectives.encoder_decoder import EncoderDecoder, PairBatch
from trainer.schedule import seeded
from trainer.tokens import Encoded
from understudy.artifact import base_fingerprint, verify

_SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "d_model": 64,
    "pad_token_id": 0,
    "eos_token_id": 0,
    "decoder_start_token_id": 0,
}
_T5: dict[str, Any] = {**_SIZES, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
CONFIGS: dict[str, PretrainedConfig] = {
    "t5": T5Config(**_T5),
    # FLAN-T5's form: gated, and a head of its own.
    "flan": T5Config(**_T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    "bart": BartConfig(
        **_SIZES,
        bos_token_id=0,
        forced_eos_token_id=None,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=128,
        init_std=0.2,
    ),
}


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Encoder-decoders of random weights, by kind."""
    root = tmp_path_factory.mktemp("encoder_decoders")
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        AutoModelForSeq2SeqLM.from_config(config).save_pretrained(root / name)
        make_tokenizer().save_pretrained(root / name)
    return {name: root / name for name in CONFIGS}


def encoded(base: Path) -> list[Encoded]:
    rows = make_rows(6)
    examples = [Example(row["input"], row["completion"], "f:1") for row in rows]
    return EncoderDecoder().encode(load_tokenizer(base), examples)


def configured(base: Path, method: dict[str, Any]) -> TrainConfig:
    data = {"name": "x", "base": str(base), "data": {"train": "t"}, "output": {"dir": "o"}}
    return parse_config({**data, "method": method, "num_threads": 1}, "test")


def attached(base: Path, method: str, quantization: str = "nf4", **settings: Any) -> Any:
    """A model whose adapter is not at its start, where half of the gradients are zero."""
    config = configured(base, {"type": method, **settings})
    model = load_base(
        base, quantization=quantization, dtype=torch.float32, device="cpu", task="SEQ_2_SEQ_LM"
    )
    tokenizer = load_tokenizer(base)
    kind = METHODS[method]
    bound = kind.bind(kind.complete(config.method), load_outline(base, "SEQ_2_SEQ_LM"), tokenizer)
    with seeded(1, "test"):
        adapted = kind.attach(model, bound, tokenizer)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
    return adapted.train()


SETTINGS = {"lora": {"rank": 4}, "prompt_tuning": {"num_virtual_tokens": 3}}


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("method", sorted(SETTINGS))
def test_loss_and_gradients_are_those_of_transformers(
    kind: str, method: str, pairs: dict[str, Path]
) -> None:
    model = attached(pairs[kind], method, **SETTINGS[method]).eval()
    objective = EncoderDecoder()
    examples = encoded(pairs[kind])
    batch = objective.collate(examples, "cpu")
    assert len({len(example.prompt_ids) for example in examples}) > 1
    assert batch.num_terms == int((batch.labels >= 0).sum())
    plain = model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels
    )
    ours, theirs = objective.summed_loss(model, batch), plain.loss * batch.num_terms
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    trained = [p for p in model.parameters() if p.requires_grad]
    got, expected = torch.autograd.grad(ours, trained), torch.autograd.grad(theirs, trained)
    for g, e in zip(got, expected, strict=True):
        assert (g - e).norm() <= 1e-5 * e.norm()
    assert any(e.abs().max() > 0 for e in expected)
    alone = sum(
        objective.summed_loss(model, objective.collate([example], "cpu")).item()
        for example in examples
    )
    assert ours.item() == pytest.approx(alone, rel=1e-5)


EXTRA: dict[str, dict[str, Any]] = {
    "trainable_tokens": {"tokens": [0, 261]},
    "layers": {"modules": ["layer_norm"]},
}


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"head"}))
def test_each_method_trains_and_comes_back(
    method: str, pairs: dict[str, Path], tmp_path: Path
) -> None:
    # T5 has no biases.
    base = pairs["bart" if method == "bitfit" else "t5"]
    kind = METHODS[method]
    config = configured(base, {"type": method, **EXTRA.get(method, {})})
    if kind.trains_base:
        config = dataclasses.replace(config, quantization="none")
    tokenizer = load_tokenizer(base)
    outline = load_outline(base, "SEQ_2_SEQ_LM")
    config = dataclasses.replace(
        config, method=kind.complete(config.method), device="cpu", dtype="float32"
    )
    kind.check(config, outline)
    bound = kind.bind(config.method, outline, tokenizer)
    examples = InMemory(encoded(base))
    bound = kind.with_examples(bound, examples, tokenizer)
    objective = EncoderDecoder()

    def load(quantization: str = config.quantization) -> Any:
        return load_base(
            base, quantization=quantization, dtype=torch.float32, device="cpu", task="SEQ_2_SEQ_LM"
        )

    def loss(model: Any, example: Any) -> torch.Tensor:
        batch = objective.collate([example], "cpu")
        return objective.summed_loss(model, batch) / batch.num_terms

    with seeded(0, "test"):
        model = kind.attach(load(), bound, tokenizer)
        kind.initialise(model, bound, Start(config, examples, lambda: load("none"), loss))
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert sum(p.numel() for p in trained.values()) == kind.num_trainable(outline, bound)
    optimizer = torch.optim.AdamW(trained.values(), lr=0.01)
    batch = objective.collate(list(examples), "cpu")
    losses = []
    for _ in range(5):
        # Without T5's dropout, so that the losses compare.
        summed = objective.summed_loss(model.eval(), batch)
        losses.append(summed.item())
        summed.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    with torch.no_grad():
        expected = objective.logits(model.eval(), batch)
    kind.save(model, tmp_path / "adapter")
    with torch.no_grad():
        found = objective.logits(kind.reread(load(), tmp_path / "adapter").eval(), batch)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_what_is_quantized(quantization: str, pairs: dict[str, Path]) -> None:
    """All linears but the head, and T5's `wo`, which transformers keeps in full precision."""
    model = attached(pairs["t5"], "lora", quantization, rank=2)
    kind = {"nf4": Linear4bit, "int8": Linear8bitLt}[quantization]
    names = {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if isinstance(m, kind)}
    assert {"base_layer"} == names
    wide = [m for n, m in model.named_modules() if n.endswith(".wo.base_layer")]
    assert all(type(m) is torch.nn.Linear and m.weight.dtype == torch.float32 for m in wide)
    assert len(wide) == 4
    base = model.get_base_model()
    assert base.get_output_embeddings().weight is base.get_input_embeddings().weight
    objective = EncoderDecoder()
    objective.summed_loss(model, objective.collate(encoded(pairs["t5"]), "cpu")).backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in grads)


RUNS: dict[str, dict[str, Any]] = {
    "lora": {"type": "lora", "rank": 4, "dropout": 0.1},
    "prompt_tuning": {"type": "prompt_tuning", "num_virtual_tokens": 4},
}


@pytest.mark.parametrize(("kind", "method"), [("t5", "prompt_tuning"), ("flan", "lora")])
def test_a_run_learns_resumes_and_is_refused_by_the_server(
    kind: str,
    method: str,
    pairs: dict[str, Path],
    base: Path,
    write_config: WriteConfig,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = write_config(
        base=str(pairs[kind]),
        method=RUNS[method],
        optimiser={"learning_rate": 0.05, "batch_size": 8, "max_steps": 9},
        loop={"checkpoint_every": 3},
    )
    whole = train(config, capsys)
    assert whole["validation_loss"] < whole["validation_loss_before"]
    artifact = Path(whole["artifact"])
    manifest = verify(artifact)
    assert manifest.base_architecture == "T5ForConditionalGeneration"
    written = json.loads((artifact / "adapter_config.json").read_text())
    assert written["task_type"] == "SEQ_2_SEQ_LM"
    assert json.loads((artifact / "run.json").read_text())["max_logit_difference_reread"] == 0
    card = (artifact / "README.md").read_text()
    assert "pipeline_tag: text2text-generation" in card
    assert "No server serves encoder-decoders" in card
    expected = read_log(artifact.parent / "metrics.jsonl")

    num_calls = 0
    original = EncoderDecoder.summed_loss

    def stops(self: EncoderDecoder, model: Any, batch: PairBatch) -> torch.Tensor:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 6:
            raise KeyboardInterrupt
        return original(self, model, batch)

    monkeypatch.setattr(EncoderDecoder, "summed_loss", stops)
    assert main(["train", str(config), "--overwrite"]) == 130
    monkeypatch.undo()
    resumed = train(config, capsys, "--resume")
    assert resumed["content_hash"] == whole["content_hash"]
    found = read_log(artifact.parent / "metrics.jsonl")
    assert [r["loss"] for r in found] == [r["loss"] for r in expected]

    # The published adapter generates through transformers and PEFT alone.
    plain = AutoModelForSeq2SeqLM.from_pretrained(pairs[kind])
    adapted = peft.PeftModel.from_pretrained(plain, str(artifact)).eval()
    ids = load_tokenizer(pairs[kind])("the late train", return_tensors="pt")["input_ids"]
    assert adapted.generate(input_ids=ids, max_new_tokens=4).shape[1] > 1

    with pytest.raises(StartupError, match="encoder-decoder models are not served"):
        server_loader.load_base(pairs[kind])
    served = server_loader.load_base(base).info
    # As if this server's base were the one it was trained on: its kind alone is enough.
    served = dataclasses.replace(served, fingerprint=base_fingerprint(pairs[kind]))
    limits = ArtifactLimits(1 << 30, 64, 1 << 30)
    with pytest.raises(AdapterRefusedError, match="task_type 'SEQ_2_SEQ_LM' is not served"):
        load_artifact(artifact, name="first", base=served, limits=limits)


def test_what_cannot_be_trained_is_refused(
    pairs: dict[str, Path],
    tmp_path: Path,
    write_config: WriteConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write_config(base=str(pairs["t5"]), objective={"type": "classification"})
    assert main(["train", str(config)]) == 2
    assert "an encoder-decoder is not classified with" in capsys.readouterr().err
    method = {"type": "prefix_tuning", "init": "vocab"}
    assert main(["train", str(write_config(base=str(pairs["t5"]), method=method))]) == 2
    assert "key 'method.init': 'vocab' sets the keys" in capsys.readouterr().err
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in pairs["t5"].iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    settings = json.loads((broken / "config.json").read_text())
    del settings["decoder_start_token_id"]
    (broken / "config.json").write_text(json.dumps(settings))
    assert main(["train", str(write_config(base=str(broken)))]) == 2
    assert "config.json has no decoder_start_token_id" in capsys.readouterr().err


@pytest.mark.parametrize("method", [None, "lora", "prompt_tuning"])
def test_answers_while_training_are_those_of_transformers(
    method: str | None, pairs: dict[str, Path]
) -> None:
    """In one pass for prompts of several lengths, and each alone."""
    base = pairs["t5"]
    tokenizer, examples = load_tokenizer(base), encoded(base)
    if method is None:
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(base)
    else:
        model = attached(base, method, **SETTINGS[method])
    answerer = Answerer(tokenizer, 6, context_length=None, left_pads=method != "prompt_tuning")
    samples = answerer.samples(model, examples)
    for sample, example in zip(samples, examples, strict=True):
        ids = torch.tensor([example.prompt_ids])
        (alone,) = model.generate(input_ids=ids, max_new_tokens=6, do_sample=False).tolist()
        assert sample.answer == tokenizer.decode(alone, skip_special_tokens=True).strip()
        assert sample.reference == tokenizer.decode(example.completion_ids[:-1]).strip()
    assert any(sample.answer for sample in samples)
