"""From a trained job to a published adapter with its records."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from trainer import checkpoint, facts, files, preflight
from trainer.build import make_answerer
from trainer.card import render_card
from trainer.config import DatasetConfig, TaskConfig, TrainConfig
from trainer.config.data import PATH_KEYS
from trainer.config_file import config_to_json
from trainer.data.hub import without_folders
from trainer.errors import OutputError
from trainer.export import CARD_FILE, RUN_FILE, check_artifact, probes, write_artifact
from trainer.generated import Sample, spread
from trainer.job import Job
from trainer.log import plot_losses, read_log
from trainer.methods import METHODS
from trainer.page import write_page
from trainer.preflight.storage import discard
from trainer.writing import write_json
from understudy import store
from understudy.artifact import ArtifactError


def finish(job: Job, prepared: preflight.Prepared, identity: checkpoint.Identity) -> dict[str, Any]:
    """Exports, checks and publishes what `job` trained; returns the summary for `--json`.

    Consumes the job's model. Raises ExportError, or OutputError if it cannot be published.
    """
    config = job.config
    output = config.output.dir
    exported_step, loss = job.step, job.validation_losses.get(job.step)
    if config.loop.keep == "best" and job.best is not None:
        exported_step, loss = job.best.step, job.best.loss
        job.load_tensors(job.best.tensors)
    records = read_log(output / files.METRICS)
    plot_losses(records, config.name, output / files.PLOT)

    method = METHODS[config.method.type]
    samples: list[Sample] = []
    if prepared.objective.generates and len(prepared.validation) and config.loop.samples:
        shown = spread(prepared.validation, config.loop.samples)
        samples = make_answerer(config, prepared).samples(job.model, shown)
    folder = output / (files.BASE if method.trains_base else files.ADAPTER)
    exported = write_artifact(job.model, config, prepared, identity.base, folder)
    difference = check_artifact(
        job.model, method, exported, prepared.objective, probes(prepared), config.output.dtype
    )
    template = prepared.template.template
    run = {
        "name": config.name,
        "content_hash": exported.manifest.content_hash,
        "config": _without_folders(config),
        "config_hash": identity.config,
        "data": {
            "files": prepared.file_names,
            "sha256": identity.data,
            "num_train": len(prepared.train),
            "num_validation": len(prepared.validation),
            "num_test": len(prepared.test_rows),
            "num_leaks_dropped": len(prepared.leakage.dropped),
            "num_overlong": prepared.num_overlong,
            "wordings": prepared.wordings_report(),
            "tasks": [task.report() for task in prepared.tasks],
        },
        "base_fingerprint": identity.base,
        "reading_hash": identity.reading,
        "prompt_template": template,
        "template_sha256": hashlib.sha256(template.encode()).hexdigest(),
        "num_trainable_parameters": prepared.num_trainable,
        "num_processes": job.group.size,
        "num_steps": job.step,
        "num_tokens": sum(r["tokens"] for r in records if r["event"] == "train"),
        "exported_step": exported_step,
        "stopped_early": job.stopped_early,
        "packed": job.packed,
        "validation_loss_before": job.validation_losses.get(0),
        "validation_loss": loss,
        "validation_metrics_before": job.validation_metrics.get(0, {}),
        "validation_metrics": job.validation_metrics.get(exported_step, {}),
        "validation_loss_last": job.validation_losses.get(job.step),
        "max_logit_difference_reread": difference,
        "training_s": round(job.elapsed_s, 3),
        "peak_memory_bytes": facts.peak_memory_bytes(),
        "peak_device_memory_bytes": facts.peak_device_memory_bytes(config.device or "cpu"),
        "packages": facts.package_versions(),
        "hardware": facts.hardware(config.device or "cpu"),
    }
    write_json(exported.directory / RUN_FILE, run)
    card = render_card(exported.manifest, run, prepared.objective.task)
    (exported.directory / CARD_FILE).write_text(card, encoding="utf-8")
    write_page(output / files.PAGE, run, records, samples)
    discard(config)
    version = None
    if config.output.store is not None and config.output.publish and not method.trains_base:
        place = config.output.store / config.name
        try:
            version = store.publish(exported.directory, config.output.store, config.name)
        except (OSError, ArtifactError) as error:
            raise OutputError.of(place, error) from error
    return {
        "name": config.name,
        "method": config.method.type,
        "result": "base" if method.trains_base else "adapter",
        "version": version,
        "content_hash": exported.manifest.content_hash,
        "artifact": str(exported.directory),
        "steps": job.step,
        "exported_step": exported_step,
        "validation_loss_before": job.validation_losses.get(0),
        "validation_loss": loss,
        "validation_metrics": run["validation_metrics"],
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

    shortened = dataclasses.replace(
        config,
        base=Path(config.base.resolve().name),
        data=dataclasses.replace(
            config.data,
            **{key: _named(getattr(config.data, key)) for key in PATH_KEYS},
        ),
    )
    content = config_to_json(shortened)
    del content["output"]
    return content


def _named(value: Any) -> Any:
    """Files, data sets and what holds them, without their folders."""
    if isinstance(value, Path):
        return Path(value.name)
    if isinstance(value, DatasetConfig):
        return without_folders(value)
    if isinstance(value, TaskConfig):
        return dataclasses.replace(
            value, files=_named(value.files), validation=_named(value.validation)
        )
    return tuple(map(_named, value)) if isinstance(value, tuple) else value
