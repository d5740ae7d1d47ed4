"""Writes what was trained, an adapter or a base, and proves that it computes what was trained."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.config import TrainConfig
from trainer.errors import ExportError
from trainer.held import release
from trainer.methods import METHODS, Method
from trainer.new_base import write_base
from trainer.objectives import Objective
from trainer.preflight import Prepared
from trainer.tokens import Encoded
from trainer.writing import write_json
from understudy.artifact import (
    CONFIG_FILE,
    TENSORS_FILE,
    Manifest,
    base_fingerprint,
    read_json_object,
    seal,
)

RUN_FILE = "run.json"
CARD_FILE = "README.md"

# The same numbers go through the same operations, so CPU gives equal bits; CUDA may reorder sums.
MAX_RELATIVE_DIFFERENCE = 1e-5
# Where tensors are rounded to 16 bits, in units of that type's precision.
MAX_ROUNDING = 8
NUM_PROBES = 4


@dataclass(frozen=True)
class Exported:
    """An artifact on disk, or a base."""

    directory: Path
    manifest: Manifest
    """Of a base: in memory only. Its content hash is the base's fingerprint."""


def write_artifact(
    model: Any,
    config: TrainConfig,
    prepared: Prepared,
    fingerprint: str,
    directory: Path,
) -> Exported:
    """Writes PEFT's files and the manifest into `directory`, or a base, replacing what was there.

    `fingerprint` is that of the base trained on, which is named by its folder's name: no path of
    this machine is written.
    """
    shutil.rmtree(directory, ignore_errors=True)
    method = METHODS[config.method.type]
    tokenizer = prepared.tokenizer
    architectures = prepared.outline.config.architectures or [type(prepared.outline).__name__]
    manifest = Manifest(
        name=config.name,
        method=config.method.type,
        base_fingerprint=fingerprint,
        base_name=config.base.resolve().name,
        base_architecture=architectures[0],
        quantization=config.quantization,
        rank=_rank(model),
        num_virtual_tokens=method.num_virtual_tokens(prepared.method),
        prompt_template=prepared.template.template,
        token_ids={
            "bos": tokenizer.bos_token_id,
            "eos": tokenizer.eos_token_id,
            "pad": tokenizer.pad_token_id,
        },
        labels=list(prepared.objective.labels),
    )
    if method.trains_base:
        write_base(model, config.base, directory, torch.float32, leave=(RUN_FILE,))
        return Exported(directory, replace(manifest, content_hash=base_fingerprint(directory)))
    method.save(model, directory)
    _name_targets(model, directory / CONFIG_FILE)
    if config.output.dtype != "float32":
        narrow_tensors(directory / TENSORS_FILE, getattr(torch, config.output.dtype))
    canonicalise_config(directory / CONFIG_FILE, config.base.resolve().name)
    peft_type = read_json_object(directory / CONFIG_FILE)["peft_type"]
    return Exported(directory, seal(directory, replace(manifest, method=peft_type.lower())))


def narrow_tensors(path: Path, dtype: torch.dtype) -> None:
    """Rounds the wider tensors of a file to `dtype`. Raises ExportError if one overflows."""
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype.itemsize > dtype.itemsize:
            tensors[name] = tensor.to(dtype)
            if not tensors[name].isfinite().all():
                raise ExportError(
                    f"{path}: tensor {name!r} has values beyond {torch.finfo(dtype).max:g}, which "
                    f"{str(dtype).removeprefix('torch.')} cannot hold; set output.dtype to float32"
                )
    save_file(tensors, path, metadata={"format": "pt"})


def _name_targets(model: Any, path: Path) -> None:
    """Writes the modules that an expression chose in its place: no reader need match it, and a
    server would refuse one that may take long."""
    config = read_json_object(path)
    if not isinstance(config.get("target_modules"), str):
        return
    names = model.base_model.targeted_module_names
    # None where PEFT's own name for no modules stands.
    if names:
        config["target_modules"] = names
        write_json(path, config, sort_keys=True)


def _rank(model: peft.PeftModel) -> int:
    """Largest rank of the low-rank updates; 0 if there are none."""
    layers = (module for module in model.modules() if isinstance(module, LoraLayer))
    return max((rank for layer in layers for rank in layer.r.values()), default=0)


def canonicalise_config(path: Path, base_name: str) -> None:
    """Makes PEFT's configuration a function of the run alone.

    PEFT writes the base's path, and sets in the order of Python's hashes, which differ from
    process to process and would change the content hash.
    """
    config = read_json_object(path)
    config["base_model_name_or_path"] = base_name
    for key in ("target_modules", "exclude_modules", "modules_to_save"):
        if isinstance(config.get(key), list):
            config[key] = sorted(set(config[key]))
    write_json(path, config, sort_keys=True)


def probes(prepared: Prepared) -> list[Encoded]:
    """A run's shortest examples, to compare logits on."""
    examples = prepared.validation if len(prepared.validation) else prepared.train
    shortest = np.argsort(examples.lengths, kind="stable")[:NUM_PROBES]
    return [examples[index] for index in shortest]


def check_artifact(
    model: peft.PeftModel,
    method: Method,
    exported: Exported,
    objective: Objective,
    probes: Sequence[Encoded],
    dtype: str = "float32",
) -> float:
    """Reads what was written in `dtype` onto the base again and compares logits.

    Returns the largest difference. Consumes `model`: its adapter is detached. Raises ExportError if
    they differ beyond rounding.
    """
    batch = objective.collate(probes, str(next(model.parameters()).device))
    release(model)
    trained = _logits(model, objective, batch)
    written = method.reread(method.detach(model), exported.directory)
    difference = (_logits(written, objective, batch) - trained).abs().max().item()
    relative = MAX_RELATIVE_DIFFERENCE
    if dtype != "float32":
        relative = MAX_ROUNDING * torch.finfo(getattr(torch, dtype)).eps
    limit = relative * trained.abs().max().item()
    if not difference <= limit:
        raise ExportError(
            f"{exported.directory}: logits of what was read back differ by {difference:.3g} "
            f"from those trained, more than {limit:.3g}; it was not published"
        )
    return difference


@torch.no_grad()
def _logits(model: peft.PeftModel, objective: Objective, batch: Any) -> Tensor:
    model.eval()
    return objective.logits(model, batch).float()
