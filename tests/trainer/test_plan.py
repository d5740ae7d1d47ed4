"""What a run would take: against what it takes, and against autograd on real weights."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import trainer.model
from tests.trainer.conftest import WriteConfig, WriteRows, make_rows
from trainer import build
from trainer.__main__ import main
from trainer.batches import BatchPlan
from trainer.config import TrainConfig
from trainer.config_file import load_config
from trainer.estimate import estimate_memory, largest_batch
from trainer.estimate.activations import activation_bytes
from trainer.estimate.available import _cgroup, _meminfo
from trainer.estimate.memory import weight_bytes
from trainer.preflight import Prepared, prepare
from trainer.resolve import Hardware, resolve
from trainer.shared import storages

CPU = Hardware(has_cuda=False, has_cuda_bfloat16=False)


def ready(path: Path, *overrides: str) -> tuple[TrainConfig, Prepared]:
    config = resolve(load_config(path, overrides), CPU)
    return config, prepare(config)


def plan(path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["plan", str(path), "--json", *arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_plan_is_what_train_does(
    write_config: WriteConfig,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    config = write_config(
        data={
            "train": str(tmp_path / "train.jsonl"),
            "validation": 0.2,
            "test": 0.1,
            "template_name": "summarize/*",
        },
        optimiser={"batch_size": 4, "epochs": 1.5},
    )
    with monkeypatch.context() as patched:
        patched.setattr(trainer.model, "load_base", lambda *a, **k: pytest.fail("weights loaded"))
        found = plan(config, capsys)
        assert main(["plan", str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not (tmp_path / "run").exists()
    assert main(["train", str(config), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    run = json.loads((Path(summary["artifact"]) / "run.json").read_text())
    assert found["steps"] == summary["steps"] == math.ceil(1.5 * found["steps_per_epoch"])
    assert found["num_trainable"] == run["num_trainable_parameters"]
    assert found["rows"] == {
        "train": run["data"]["num_train"],
        "validation": run["data"]["num_validation"],
        "test": run["data"]["num_test"],
        "overlong": 0,
    }
    assert found["wordings"] == run["data"]["wordings"]
    assert found["output"]["store"] == str(tmp_path / "store")
    assert found["example"]["completion"].endswith("</s>")
    assert any(line.startswith("steps     ") for line in lines)
    assert "leakage   compared with validation, test: none" in lines
    assert any(line.endswith("tokens/s (rough; --measure times it)") for line in lines)
    assert main(["plan", str(config)]) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_plan_of_several_jobs(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their memory stands there once; a rate far from its method's default is pointed out."""
    config = write_config()
    rates = {"a": 2e-4, "b": 2e-3, "c": 2.5e-3, "d": 1e-5}
    jobs = ", ".join(f"{{name: {n}, optimiser: {{learning_rate: {r}}}}}" for n, r in rates.items())
    overrides = [f"jobs=[{jobs}]", "method={type: lora, rank: 4}"]
    assert main(["plan", str(config), *(p for o in overrides for p in ("--set", o))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("rate ")] == [
        "rate      0.0002",
        "rate      0.002",
        "rate      0.0025: 12 times the default of lora, 0.0002",
        "rate      1e-05: 1/20 of the default of lora, 0.0002",
    ]
    assert lines[-2] == "all 4 jobs together"
    assert [n for n, line in enumerate(lines) if line.startswith("memory ")] == [len(lines) - 1]


def test_measured_plan(write_config: WriteConfig, capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(write_config(), capsys, "--measure")
    assert found["time"]["measured"] is True
    assert 0 < found["time"]["step_s"] < 10
    assert found["time"]["training_s"] >= found["steps"] * found["time"]["step_s"]
    assert found["memory"]["measured_peak"] > 100 << 20


@pytest.mark.parametrize(
    "method",
    [
        {"type": "lora", "rank": 4, "dropout": 0.1},
        {"type": "prompt_tuning", "num_virtual_tokens": 8},
    ],
)
@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_activations_are_what_autograd_saves(
    method: dict[str, Any], quantization: str, write_config: WriteConfig
) -> None:
    """Counted on `meta`, and with weights, fused attention and the trainer's own loss."""
    overrides = ("optimiser.packing=false",)
    path = write_config(method=method, quantization=quantization)
    config, prepared = ready(path, *overrides)
    batches = BatchPlan(prepared.train, config.optimiser, config.seed)
    batch = largest_batch(config, prepared.train, batches)
    counted = activation_bytes(config, prepared, batch)

    job = build.make_job(config, prepared, build.load_base(config, "CAUSAL_LM"), alone=True)
    own = storages(job.model).keys()
    saved: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    rows = next(
        b
        for step in range(batches.steps_per_epoch)
        for b in batches.batches_of(step)
        if len(b) == batch.num_rows and prepared.train.lengths[b].max() == batch.length
    )
    collated = prepared.objective.collate([prepared.train[int(i)] for i in rows], "cpu")
    job.model.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        prepared.objective.summed_loss(job.model, collated)
    real = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    if quantization == "nf4":
        # A dequantized copy of a weight is held by the run, and counted as `held`.
        real -= sum(
            t.untyped_storage().nbytes()
            for t in saved.values()
            if not t.requires_grad
            and t.ndim == 2
            and tuple(t.shape)
            in {
                tuple(m.weight.shape)
                for m in prepared.outline.modules()
                if isinstance(m, torch.nn.Linear)
            }
        )
    assert counted == pytest.approx(real, rel=0.05)


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_weights_are_what_loading_takes(quantization: str, write_config: WriteConfig) -> None:
    config, prepared = ready(write_config(quantization=quantization))
    real = sum(storages(build.load_base(config, "CAUSAL_LM").model).values())
    assert weight_bytes(prepared.outline, config) == pytest.approx(real, rel=0.1)


def test_what_lowers_memory_lowers_the_estimate(write_config: WriteConfig) -> None:
    def total(*overrides: str) -> int:
        return estimate_memory(*ready(write_config(), "optimiser.batch_size=16", *overrides)).total

    everything = total()
    for override in (
        "optimiser.batch_size=2",
        "hold_dequantized=false",
        "method.rank=1",
        "optimiser.algorithm=adafactor",
        "dtype=bfloat16",
    ):
        assert total(override) < everything, override


def test_a_head_alone_keeps_nothing_of_the_layers_below(
    write_config: WriteConfig, write_rows: WriteRows, tmp_path: Path
) -> None:
    """A classifier's pooling looks at real numbers; the layers are counted without it."""
    rows = [{**row, "completion": "ab"[i % 2]} for i, row in enumerate(make_rows(40))]
    write_rows("train.jsonl", rows)
    objective = {"type": "classification", "label_column": "completion"}
    counted = {}
    for method in ("head", "lora", "prompt_tuning"):
        path = write_config(method={"type": method}, objective=objective)
        counted[method] = estimate_memory(*ready(path, "optimiser.batch_size=16")).activations
    assert counted["head"] < counted["lora"] / 10
    assert counted["lora"] < counted["prompt_tuning"] * 2 < counted["lora"] * 8


def test_available_memory(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:      64 kB\n")
    assert _meminfo(meminfo) == 64 << 10
    assert _meminfo(tmp_path / "none") is None
    assert _cgroup(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 100\n")
    assert _cgroup(tmp_path) == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert _cgroup(tmp_path) is None
