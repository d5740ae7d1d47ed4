"""Checks adapters, combines them and publishes what comes out."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft

from trainer.combine.recipe import Recipe, Source, check_recipe
from trainer.combine.weighted import TOTAL, check_written, combined, config_of, difference_from_sum
from trainer.errors import InputError
from trainer.export import RUN_FILE, canonicalise_config
from trainer.facts import package_versions
from trainer.inputs import check_base
from trainer.reference import find_version
from trainer.writing import check_writable, write_json
from understudy.artifact import (
    CONFIG_FILE,
    TENSORS_FILE,
    ArtifactError,
    Manifest,
    base_fingerprint,
    check_name,
    read_json_object,
    read_safetensors_header,
    seal,
    verify,
)
from understudy.store import publish

# Keys that say how large an update is and where, how it was trained, or where it is from. With any
# other beside PEFT's default there is more than updates to add up.
_UPDATE = frozenset(
    {
        "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules",
        "layers_to_transform", "layers_pattern", "exclude_modules", "fan_in_fan_out",
        "lora_dropout", "init_lora_weights", "peft_type", "auto_mapping", "peft_version",
        "base_model_name_or_path", "revision", "inference_mode", "task_type", "eva_config",
        "megatron_core", "qalora_group_size", "runtime_config",
    }
)  # fmt: skip
# The others changed the base's weights.
_PLAIN_INITS = (True, False, None, "gaussian", "orthogonal", "eva")


def combine(
    name: str, sources: Sequence[Source], recipe: Recipe, base: Path, store: Path
) -> dict[str, Any]:
    """Combines adapters of `store` into a new version of `name`; returns a summary.

    Its prompt template is the first one's. Raises InputError if an adapter cannot be combined.
    """
    check_recipe(recipe, len(sources))
    started = time.monotonic()
    try:
        check_name(name)
        folders = [find_version(source.reference, store) for source in sources]
        manifests = [verify(folder) for folder in folders]
        check_base(base)
        fingerprint = base_fingerprint(base)
    except (ArtifactError, OSError) as error:
        raise InputError(str(error)) from error
    for source, folder, manifest in zip(sources, folders, manifests, strict=True):
        _check(source, folder, manifest, fingerprint)
    check_writable("--store", store)
    model = combined(folders, sources, recipe, base)
    if not all(p.isfinite().all() for n, p in model.named_parameters() if f".{TOTAL}." in n):
        weights = ", ".join(f"{source.weight:g}" for source in sources)
        raise InputError(f"--adapters: weights {weights} lead to numbers beyond float32's largest")
    difference = difference_from_sum(model, [source.weight for source in sources])
    rank = config_of(model).r
    notes = _notes(sources, manifests)
    with tempfile.TemporaryDirectory(prefix="combine-") as temporary:
        model.save_pretrained(temporary, selected_adapters=[TOTAL], save_embedding_layers=False)
        folder = Path(temporary) / TOTAL
        check_written(model, folder)
        canonicalise_config(folder / CONFIG_FILE, base.resolve().name)
        versions = [f"{m.name}@{m.content_hash}" for m in manifests]
        write_json(
            folder / RUN_FILE,
            {
                "kind": "combination",
                "recipe": {**vars(recipe)},
                "adapters": [
                    {"adapter": version, "weight": source.weight}
                    for version, source in zip(versions, sources, strict=True)
                ],
                "relative_difference_from_sum": difference,
                "packages": package_versions(),
                "wall_time_s": time.monotonic() - started,
            },
        )
        seal(folder, replace(manifests[0], name=name, rank=rank, files={}, content_hash=""))
        try:
            version = publish(folder, store, name)
        except ArtifactError as error:
            raise InputError(str(error)) from error
    return {
        "name": name,
        "version": version,
        "recipe": recipe.name,
        "rank": rank,
        "adapters": [folder.parent.name + "@" + folder.name for folder in folders],
        "relative_difference_from_sum": difference,
        "notes": notes,
    }


def _check(source: Source, folder: Path, manifest: Manifest, fingerprint: str) -> None:
    """Raises InputError unless the adapter is plain LoRA for this base."""
    if manifest.base_fingerprint != fingerprint:
        raise InputError(
            f"adapter {source.reference!r} was trained on base {manifest.base_name!r} with "
            f"fingerprint {manifest.base_fingerprint}; --base has {fingerprint}"
        )
    if manifest.method != "lora":
        raise InputError(
            f"adapter {source.reference!r} is {manifest.method}; only LoRA can be combined"
        )
    config = read_json_object(folder / CONFIG_FILE)
    plain = peft.LoraConfig().to_dict()
    odd = [k for k in config.keys() - _UPDATE if config[k] not in (None, [], {}, plain.get(k))]
    odd += ["task_type"] if config.get("task_type") not in (None, "CAUSAL_LM") else []
    odd += [] if config.get("init_lora_weights") in _PLAIN_INITS else ["init_lora_weights"]
    for key in sorted(odd):
        raise InputError(
            f"adapter {source.reference!r}: {key} {config[key]!r}; only plain LoRA can be combined"
        )
    for entry in read_safetensors_header(folder / TENSORS_FILE):
        if ".lora_" not in entry.name:
            raise InputError(
                f"adapter {source.reference!r}: holds tensor {entry.name!r} beside its updates; "
                "only plain LoRA can be combined"
            )


def _notes(sources: Sequence[Source], manifests: Sequence[Manifest]) -> list[str]:
    first = manifests[0]
    notes = []
    for source, manifest in zip(sources, manifests, strict=True):
        if manifest.prompt_template != first.prompt_template:
            notes.append(
                f"{source.reference} was trained with another prompt template than "
                f"{sources[0].reference}, whose template the result has"
            )
        if manifest.quantization != first.quantization:
            notes.append(
                f"{source.reference} was trained on a base quantized {manifest.quantization!r}, "
                f"{sources[0].reference} on {first.quantization!r}"
            )
    return notes


def summary_text(summary: dict[str, Any], store: Path) -> str:
    """A line for people, and one per note."""
    lines = [
        f"{summary['name']}: {' + '.join(summary['adapters'])} by {summary['recipe']}, rank "
        f"{summary['rank']}, {summary['relative_difference_from_sum']:.2g} from the exact sum "
        f"(relative); adapter in {store}/{summary['name']}/{summary['version']}",
        *(f"note: {note}" for note in summary["notes"]),
    ]
    return "\n".join(lines)
