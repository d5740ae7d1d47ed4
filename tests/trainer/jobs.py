"""Jobs in this process: prepared, made and trained for a few steps as the verb `train` does it."""

import io
import json
from pathlib import Path
from typing import Any

import torch

from tests.trainer.conftest import make_rows
from trainer import preflight
from trainer.build import load_base, make_job
from trainer.config import TrainConfig
from trainer.config_file import parse_config
from trainer.export import Exported, write_artifact
from trainer.job import Job
from trainer.resolve import Hardware, resolve
from understudy.artifact import base_fingerprint

NUM_STEPS = 4


def configure(
    base: Path,
    folder: Path,
    method: dict[str, Any],
    quantization: str = "nf4",
    dtype: str = "float32",
    **optimiser: Any,
) -> TrainConfig:
    """A resolved configuration over forty rows, on CPU."""
    path = folder / "train.jsonl"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{json.dumps(row)}\n" for row in make_rows(40)))
    values = {
        "name": "mine",
        "base": str(base),
        "data": {"train": str(path), "validation": 0.2, "template_name": "summarize"},
        "method": method,
        "optimiser": {"learning_rate": 1e-2, "batch_size": 4, "max_steps": NUM_STEPS} | optimiser,
        "output": {"dir": str(folder / "run")},
        "quantization": quantization,
        "dtype": dtype,
        "device": "cpu",
        "num_threads": 1,
    }
    return resolve(parse_config(values, "test"), Hardware(has_cuda=False, has_cuda_bfloat16=False))


def job_of(config: TrainConfig, prepared: preflight.Prepared) -> Job:
    """A job about to take its first step."""
    base = load_base(config, prepared.objective.task)
    return make_job(config, prepared, base, alone=True)


def trained(config: TrainConfig, prepared: preflight.Prepared) -> Job:
    """A job that took all its steps."""
    return finished(job_of(config, prepared))


def finished(job: Job) -> Job:
    """`job` after the rest of its steps."""
    while not job.finished:
        job.train_step()
    return job


def trained_whole_and_resumed(config: TrainConfig, prepared: preflight.Prepared) -> tuple[Job, Job]:
    """A job that took all its steps, and one that went on from what it wrote half way."""
    whole = job_of(config, prepared)
    for _ in range(NUM_STEPS // 2):
        whole.train_step()
    file = io.BytesIO()
    torch.save(whole.state(), file)
    file.seek(0)
    resumed = job_of(config, prepared)
    resumed.load_state(torch.load(file, weights_only=True))
    assert resumed.step == NUM_STEPS // 2
    return finished(whole), finished(resumed)


def exported(job: Job, prepared: preflight.Prepared, directory: Path) -> Exported:
    """The artifact of a trained job."""
    fingerprint = base_fingerprint(job.config.base)
    return write_artifact(job.model, job.config, prepared, fingerprint, directory)
