"""The verb `train`: from a configuration to a published adapter."""

import dataclasses
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer import checkpoint, data, facts, held, loop, model, preflight
from trainer.card import render_card
from trainer.config import OutputConfig, TrainConfig
from trainer.config_file import config_hash, config_to_json
from trainer.errors import BaseModelError, CheckpointError, ConfigError
from trainer.export import CARD_FILE, RUN_FILE, check_artifact, write_artifact, write_json
from trainer.job import Job
from trainer.log import MetricsLog, plot_losses, read_log
from trainer.methods import METHODS
from trainer.objectives import OBJECTIVES
from trainer.progress import ProgressView
from trainer.resolve import detect_hardware, resolve, should_hold
from trainer.schedule import seeded
from understudy import store
from understudy.artifact import ArtifactError, base_fingerprint

METRICS_FILE = "metrics.jsonl"
PLOT_FILE = "loss.png"
CHECKPOINT_FILE = "checkpoint.pt"
ADAPTER_FOLDER = "adapter"
# What a run leaves in its folder, and a new one replaces.
OWN_NAMES = (METRICS_FILE, PLOT_FILE, CHECKPOINT_FILE, ADAPTER_FOLDER)


@dataclass(frozen=True)
class TrainOptions:
    """How to run, apart from what to train."""

    resume: bool = False
    """Continue from the checkpoint in the output folder."""
    overwrite: bool = False
    """Replace an earlier run in the output folder."""
    quiet: bool = False
    """Print no progress."""


def train(config: TrainConfig, options: TrainOptions) -> dict[str, Any]:
    """Trains, exports, checks and publishes one adapter; returns the summary for `--json`.

    Writes `metrics.jsonl`, `loss.png`, `checkpoint.pt` and `adapter/` into `config.output.dir`.
    Raises TrainerError.
    """
    config = resolve(config, detect_hardware())
    assert config.device is not None
    assert config.dtype is not None
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    output = config.output.dir
    _check_output(config.output, options)
    prepared = preflight.prepare(config)
    identity = _identify(config, prepared)
    resumed = checkpoint.load(output / CHECKPOINT_FILE, identity) if options.resume else None
    _clear_output(output, keep=options.resume)

    job = _make_job(config, prepared)
    num_log_bytes = 0
    if resumed is not None:
        state, num_log_bytes = resumed
        job.load_state(state)
    with (
        loop.stop_on_signal() as stop,
        MetricsLog(output / METRICS_FILE, num_log_bytes) as log,
        ProgressView(job, options.quiet) as view,
    ):
        loop.run(job, log, view, output / CHECKPOINT_FILE, identity, stop)
    return _finish(job, prepared, identity)


def _identify(config: TrainConfig, prepared: preflight.Prepared) -> checkpoint.Identity:
    try:
        base = base_fingerprint(config.base)
    except ArtifactError as error:
        raise BaseModelError(f"base {str(config.base)!r}: {error}") from error
    return checkpoint.Identity(
        config=config_hash(config),
        data=data.data_hash(prepared.train_paths + prepared.validation_paths),
        base=base,
    )


def _check_output(settings: OutputConfig, options: TrainOptions) -> None:
    for key, folder in (("dir", settings.dir), ("store", settings.store)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise ConfigError(f"key 'output.{key}': {str(folder)!r} is a file")
    if options.resume or options.overwrite:
        return
    if found := [name for name in OWN_NAMES if (settings.dir / name).exists()]:
        raise CheckpointError(
            f"{settings.dir}: holds a run already ({found[0]}); continue it with --resume, "
            "replace it with --overwrite, or set another output.dir"
        )


def _clear_output(output: Path, *, keep: bool) -> None:
    output.mkdir(parents=True, exist_ok=True)
    if not keep:
        for name in (METRICS_FILE, PLOT_FILE, CHECKPOINT_FILE):
            (output / name).unlink(missing_ok=True)
        shutil.rmtree(output / ADAPTER_FOLDER, ignore_errors=True)


def _make_job(config: TrainConfig, prepared: preflight.Prepared) -> Job:
    assert config.device is not None
    assert config.dtype is not None
    dtype = model.DTYPES[config.dtype]
    base = model.load_base(
        config.base, quantization=config.quantization, dtype=dtype, device=config.device
    )
    with seeded(config.seed, "adapter"):
        attached = METHODS[config.method.type].attach(base, config.method, prepared.tokenizer)
    if should_hold(config, held.num_held_bytes(prepared.outline, dtype)):
        held.hold(attached)
    return Job(config, attached, OBJECTIVES["supervised"], prepared.train, prepared.validation)


def _finish(
    job: Job, prepared: preflight.Prepared, identity: checkpoint.Identity
) -> dict[str, Any]:
    config = job.config
    output = config.output.dir
    exported_step, loss = job.step, job.validation_losses.get(job.step)
    if config.loop.keep == "best" and job.best is not None:
        exported_step, loss = job.best.step, job.best.loss
        job.load_tensors(job.best.tensors)
    records = read_log(output / METRICS_FILE)
    plot_losses(records, config.name, output / PLOT_FILE)

    exported = write_artifact(job.model, config, prepared, identity.base, output / ADAPTER_FOLDER)
    difference = check_artifact(job.model, exported, prepared.validation or prepared.train)
    template = prepared.template.template
    run = {
        "name": config.name,
        "content_hash": exported.manifest.content_hash,
        "config": _without_folders(config),
        "config_hash": identity.config,
        "data": {
            "files": [path.name for path in prepared.train_paths + prepared.validation_paths],
            "sha256": identity.data,
            "num_train": len(prepared.train),
            "num_validation": len(prepared.validation),
            "num_overlong": prepared.num_overlong,
        },
        "template_sha256": hashlib.sha256(template.encode()).hexdigest(),
        "num_trainable_parameters": prepared.num_trainable,
        "num_steps": job.step,
        "num_tokens": sum(r["tokens"] for r in records if r["event"] == "train"),
        "exported_step": exported_step,
        "validation_loss_before": job.validation_losses.get(0),
        "validation_loss": loss,
        "validation_loss_last": job.validation_losses.get(job.step),
        "max_logit_difference_reread": difference,
        "training_s": round(job.elapsed_s, 3),
        "peak_memory_bytes": facts.peak_memory_bytes(),
        "peak_device_memory_bytes": facts.peak_device_memory_bytes(config.device or "cpu"),
        "packages": facts.package_versions(),
        "hardware": facts.hardware(config.device or "cpu"),
    }
    write_json(exported.directory / RUN_FILE, run)
    card = render_card(exported.manifest, run)
    (exported.directory / CARD_FILE).write_text(card, encoding="utf-8")
    version = None
    if config.output.store is not None and config.output.publish:
        version = store.publish(exported.directory, config.output.store, config.name)
    return {
        "name": config.name,
        "method": config.method.type,
        "version": version,
        "content_hash": exported.manifest.content_hash,
        "artifact": str(exported.directory),
        "steps": job.step,
        "exported_step": exported_step,
        "validation_loss_before": job.validation_losses.get(0),
        "validation_loss": loss,
        "tokens_per_s": round(run["num_tokens"] / max(_stepping_s(records), 1e-9), 1),
        "training_s": run["training_s"],
        "peak_memory_bytes": run["peak_memory_bytes"],
    }


def _stepping_s(records: list[dict[str, Any]]) -> float:
    """Seconds spent in training steps."""
    steps = (r for r in records if r["event"] == "train")
    return float(sum(r["tokens"] / max(r["tokens_per_s"], 1e-9) for r in steps))


def _without_folders(config: TrainConfig) -> dict[str, Any]:
    """The configuration with files and folders by their names only."""

    def name(value: Any) -> Any:
        if isinstance(value, Path):
            return Path(value.name)
        return tuple(map(name, value)) if isinstance(value, tuple) else value

    shortened = dataclasses.replace(
        config,
        base=Path(config.base.resolve().name),
        data=dataclasses.replace(
            config.data, train=name(config.data.train), validation=name(config.data.validation)
        ),
    )
    content = config_to_json(shortened)
    del content["output"]
    return content
