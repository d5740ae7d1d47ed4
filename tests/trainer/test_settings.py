"""Every setting does what it says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.trainer.conftest import WriteConfig, make_rows
from tests.trainer.test_train import train
from trainer.batches import epoch_batches
from trainer.config import DataConfig, LoraConfig, OptimiserConfig, OutputConfig, TrainConfig
from trainer.data import Example
from trainer.errors import ExportError
from trainer.examples import InMemory
from trainer.export import narrow_tensors
from trainer.job import Job
from trainer.log import read_log
from trainer.methods import METHODS
from trainer.model import load_base, load_tokenizer
from trainer.objectives.supervised import Supervised, summed_loss_plain
from trainer.resolve import Hardware, resolve
from trainer.schedule import learning_rate_at, seeded
from trainer.tokens import Encoded, collate, encode
from understudy.artifact import TENSORS_FILE, verify

NUM_STEPS = 5


def attach(base: Path, settings: LoraConfig) -> peft.PeftModel:
    model = load_base(base, quantization="nf4", dtype=torch.float32, device="cpu")
    with seeded(1, "test"):
        return METHODS["lora"].attach(model, settings, load_tokenizer(base))


def encoded(base: Path) -> list[Encoded]:
    rows = make_rows(30)
    examples = [Example(row["input"], row["completion"], "f:1") for row in rows]
    return encode(load_tokenizer(base), examples)


def make_job(base: Path, optimiser: OptimiserConfig, method: LoraConfig) -> Job:
    config = TrainConfig(
        name="mine",
        base=base,
        data=DataConfig(train=Path("unread")),
        output=OutputConfig(dir=Path("unwritten")),
        method=method,
        optimiser=optimiser,
    )
    resolved = resolve(config, Hardware(has_cuda=False, has_cuda_bfloat16=False))
    return Job(resolved, attach(base, method), Supervised(), InMemory(encoded(base)), InMemory([]))


def test_base_is_quantized_as_qlora_does(base: Path) -> None:
    """As the server does, too: NF4 in blocks of 64, the scales quantized once more."""
    model = load_base(base, quantization="nf4", dtype=torch.float32, device="cpu")
    states = [m.weight.quant_state for m in model.modules() if isinstance(m, Linear4bit)]
    assert len(states) == 14
    assert {(s.quant_type, s.blocksize, s.nested) for s in states} == {("nf4", 64, True)}


def test_lora_settings_reach_peft(base: Path) -> None:
    settings = LoraConfig(rank=3, alpha=5, dropout=0.25, targets=("q_proj",), use_rslora=True)
    model = attach(base, settings)
    written = model.peft_config["default"]
    assert (written.r, written.lora_alpha, written.lora_dropout) == (3, 5, 0.25)
    assert written.use_rslora is True
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 4
    assert all(".q_proj." in name for name in trained)


def test_steps_are_those_of_a_plain_loop(base: Path) -> None:
    """Order, loss, clipping, learning rate and AdamW against torch and transformers alone."""
    settings = OptimiserConfig(
        learning_rate=0.02,
        weight_decay=0.3,
        betas=(0.7, 0.8),
        warmup_share=0.4,
        batch_size=4,
        max_steps=NUM_STEPS,
        clip_norm=0.05,
    )
    job = make_job(base, settings, LoraConfig(rank=4))
    losses = []
    while not job.finished:
        losses.append(job.train_step().loss)
    assert len(losses) == NUM_STEPS

    model = attach(base, LoraConfig(rank=4)).train()
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(parameters.values(), betas=(0.7, 0.8), weight_decay=0.3)
    rows = encoded(base)
    lengths = InMemory(rows).lengths
    order = epoch_batches(np.arange(len(rows)), lengths, settings, seed=0, epoch=0)
    for step in range(NUM_STEPS):
        batch = collate([rows[i] for i in order[step]])
        loss = summed_loss_plain(model, batch) / batch.num_terms
        assert losses[step] == pytest.approx(loss.item(), rel=1e-4)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 0.05)
        optimiser.param_groups[0]["lr"] = learning_rate_at(step, NUM_STEPS, settings)
        optimiser.step()
        optimiser.zero_grad()
    for name, tensor in job.tensors().items():
        # AdamW divides by a gradient's size, so one near zero shows its rounding.
        assert torch.allclose(tensor, parameters[name], atol=1e-4), name


def test_dropout_is_on_while_training(base: Path) -> None:
    def trained(dropout: float) -> dict[str, Tensor]:
        optimiser = OptimiserConfig(learning_rate=0.01, batch_size=4, max_steps=2)
        job = make_job(base, optimiser, LoraConfig(rank=4, dropout=dropout))
        for _ in range(2):
            job.train_step()
        return job.tensors()

    without, same, dropped = trained(0.0), trained(0.0), trained(0.5)
    assert all(torch.equal(same[name], tensor) for name, tensor in without.items())
    assert not any(torch.equal(dropped[name], tensor) for name, tensor in without.items())


def run_json(summary: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(summary["artifact"]) / "run.json").read_text())
    return content


def test_loop_and_output(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A learning rate that ruins the adapter, so that the best state and the last differ."""
    summary = train(
        write_config(loop={"keep": "last", "validate_every": 1}),
        capsys,
        *("--set", "optimiser.learning_rate=5", "--set", "optimiser.max_steps=2"),
        *("--set", "output.publish=false"),
    )
    records = read_log(tmp_path / "run" / "metrics.jsonl")
    validations = {r["step"]: r["loss"] for r in records if r["event"] == "validation"}
    assert list(validations) == [0, 1, 2]
    assert summary["steps"] == summary["exported_step"] == 2
    assert summary["validation_loss"] == validations[2] > min(validations.values())
    assert summary["version"] is None
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tensors_are_written_in_16_bits(
    dtype: torch.dtype, write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is the nearest one of that type to what the same run writes in 32."""
    name = str(dtype).removeprefix("torch.")
    whole = train(write_config(), capsys)
    summary = train(write_config(), capsys, "--overwrite", "--set", f"output.dtype={name}")
    # Read after, as both runs write to one folder; the first is in the store.
    version = Path(summary["artifact"]).parents[1] / "store" / "first" / whole["version"]
    wide = load_file(version / TENSORS_FILE)
    narrow = load_file(Path(summary["artifact"]) / TENSORS_FILE)
    assert wide.keys() == narrow.keys()
    assert all(torch.equal(narrow[key], tensor.to(dtype)) for key, tensor in wide.items())
    assert verify(Path(summary["artifact"])).content_hash == summary["content_hash"]
    assert summary["content_hash"] != whole["content_hash"]
    assert run_json(summary)["max_logit_difference_reread"] > 0


def test_what_16_bits_cannot_hold_is_refused(base: Path, tmp_path: Path) -> None:
    path = tmp_path / TENSORS_FILE
    save_file({"fits": torch.full((2,), 6e4), "big": torch.tensor([1.0, 7e4])}, path)
    with pytest.raises(ExportError, match=r"tensor 'big' has values beyond 65504, which float16 "):
        narrow_tensors(path, torch.float16)
    narrow_tensors(path, torch.bfloat16)
    assert load_file(path)["big"].tolist() == [1.0, 70144.0]


def test_rows_that_count(write_config: WriteConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config()
    everything = run_json(train(config, capsys))["data"]
    fewer = run_json(train(config, capsys, "--overwrite", "--set", "data.max_validation_rows=3"))
    assert everything["num_validation"] > 3 == fewer["data"]["num_validation"]
    assert everything["num_train"] + everything["num_validation"] == 40

    path = Path(config.parent, "train.jsonl")
    row = {"input": "note " * 200, "completion": "late"}
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    found = run_json(train(config, capsys, "--overwrite", "--set", "data.max_length=150"))["data"]
    assert found["num_overlong"] == 1
    assert found["num_train"] + found["num_validation"] == 40
