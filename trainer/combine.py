"""Makes one LoRA adapter of several, by an exact sum or PEFT's merge recipes, and publishes it."""

import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import nn

from trainer.errors import ExportError, InputError
from trainer.export import RUN_FILE, canonicalise_config
from trainer.facts import package_versions
from trainer.model import check_directory, load_outline
from trainer.reference import find_version
from trainer.writing import write_json
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

# Our name of a recipe -> PEFT's combination_type and where it is from.
RECIPES: dict[str, str] = {
    # The sum of the updates, as large as all of them together.
    "sum": "cat",
    # The sum, brought to `rank` by singular values.
    "svd": "svd",
    # Sums A and B apart, which is not the sum of the updates.
    "linear": "linear",
    # arXiv:2306.01708
    "ties": "ties",
    "ties_svd": "ties_svd",
    # arXiv:2311.03099
    "dare_linear": "dare_linear",
    "dare_linear_svd": "dare_linear_svd",
    "dare_ties": "dare_ties",
    "dare_ties_svd": "dare_ties_svd",
    "magnitude_prune": "magnitude_prune",
    "magnitude_prune_svd": "magnitude_prune_svd",
}
DENSE = frozenset({"sum", "svd", "linear"})
"""Recipes that drop no numbers, and take no density."""
_TOTAL = "total"
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
# With one of these, names of targets tell not all of where an update is.
_NARROWING = ("layers_to_transform", "exclude_modules")


@dataclass(frozen=True)
class Source:
    """One adapter of a combination."""

    reference: str
    """`name`, `name@version` or `name@alias` in the store."""
    weight: float


@dataclass(frozen=True)
class Recipe:
    """How adapters become one. `rank` only for recipes that end in `svd`; `density`, the share of
    numbers that is kept, only for those not in DENSE."""

    name: str = "sum"
    density: float | None = None
    rank: int | None = None
    seed: int = 0


def parse_source(text: str) -> Source:
    """`reference` or `reference=weight`. Raises InputError."""
    reference, _, weight = text.partition("=")
    try:
        return Source(reference, float(weight) if weight else 1.0)
    except ValueError:
        raise InputError(f"adapter {text!r}: weight {weight!r} is not a number") from None


def check_recipe(recipe: Recipe, num_sources: int) -> None:
    """Raises InputError naming the option at fault."""
    if recipe.name not in RECIPES:
        raise InputError(f"--recipe {recipe.name!r} is not one of {', '.join(RECIPES)}")
    if num_sources < 2:
        raise InputError("give two adapters or more; one alone is served with a weight as it is")
    if (recipe.density is None) != (recipe.name in DENSE):
        need = "takes no" if recipe.name in DENSE else "needs a"
        raise InputError(f"--recipe {recipe.name} {need} --density")
    if recipe.density is not None and not 0 < recipe.density <= 1:
        raise InputError(f"--density {recipe.density:g} is not in (0, 1]")
    if recipe.rank is not None and not recipe.name.endswith("svd"):
        raise InputError(f"--recipe {recipe.name} takes no --rank; the recipes in svd do")
    if recipe.rank is not None and recipe.rank < 1:
        raise InputError(f"--rank {recipe.rank} is not a number from 1")


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
        check_directory(base)
        fingerprint = base_fingerprint(base)
    except (ArtifactError, OSError) as error:
        raise InputError(str(error)) from error
    for source, folder, manifest in zip(sources, folders, manifests, strict=True):
        _check(source, folder, manifest, fingerprint)
    model = _combined(folders, sources, recipe, base)
    if not all(p.isfinite().all() for n, p in model.named_parameters() if f".{_TOTAL}." in n):
        weights = ", ".join(f"{source.weight:g}" for source in sources)
        raise InputError(f"--adapters: weights {weights} lead to numbers beyond float32's largest")
    difference = _difference(model, [source.weight for source in sources])
    rank = _config(model).r
    notes = _notes(sources, manifests)
    with tempfile.TemporaryDirectory(prefix="combine-") as temporary:
        model.save_pretrained(temporary, selected_adapters=[_TOTAL], save_embedding_layers=False)
        folder = Path(temporary) / _TOTAL
        _check_written(model, folder)
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


def _combined(
    folders: Sequence[Path], sources: Sequence[Source], recipe: Recipe, base: Path
) -> peft.PeftModel:
    """The adapters, and their combination as `total`, over a base without weights."""
    model = _skeleton(base)
    with warnings.catch_warnings():
        # Of PEFT about a base without a name on the hub.
        warnings.simplefilter("ignore", UserWarning)
        adapted = peft.PeftModel.from_pretrained(model, str(folders[0]), adapter_name=_part(0))
        for i, folder in enumerate(folders[1:], start=1):
            adapted.load_adapter(str(folder), adapter_name=_part(i))
    _name_targets(adapted, len(folders))
    torch.manual_seed(recipe.seed)
    try:
        adapted.add_weighted_adapter(
            [_part(i) for i in range(len(folders))],
            [source.weight for source in sources],
            _TOTAL,
            combination_type=RECIPES[recipe.name],
            svd_rank=recipe.rank,
            density=recipe.density,
        )
    except ValueError as error:
        message = " ".join(str(error).split())
        raise InputError(f"--recipe {recipe.name}: {message}") from error
    # PEFT takes the first one's configuration: a rank-stabilised one would scale the result again.
    _config(adapted).use_rslora = False
    for module in adapted.modules():
        if isinstance(module, LoraLayer) and _TOTAL in module.scaling:
            module.scaling[_TOTAL] = 1.0
    return adapted


def _name_targets(model: peft.PeftModel, count: int) -> None:
    """Writes each module that an adapter updates into its configuration, where one of them is
    narrowed: PEFT would narrow the combination as the first one is."""
    configs: list[Any] = [model.peft_config[_part(i)] for i in range(count)]
    if not any(getattr(config, key) for config in configs for key in _NARROWING) and all(
        isinstance(config.target_modules, set) for config in configs
    ):
        return
    for i, config in enumerate(configs):
        for key in (*_NARROWING, "layers_pattern"):
            setattr(config, key, None)
        config.target_modules = {
            name.removeprefix("base_model.model.")
            for name, module in model.named_modules()
            if isinstance(module, LoraLayer) and _part(i) in module.scaling
        }


def _config(model: peft.PeftModel) -> peft.LoraConfig:
    config = model.peft_config[_TOTAL]
    assert isinstance(config, peft.LoraConfig)
    return config


def _check_written(model: peft.PeftModel, folder: Path) -> None:
    """Raises ExportError unless the file holds the combination's tensors, and no others."""
    written = load_file(folder / TENSORS_FILE)
    expected = {
        name.replace(f".{_TOTAL}.", "."): parameter
        for name, parameter in model.named_parameters()
        if f".{_TOTAL}." in name
    }
    same = written.keys() == expected.keys() and all(
        torch.equal(tensor, expected[name]) for name, tensor in written.items()
    )
    if not same:
        raise ExportError("the combination read back differs from what was made; not published")


def _part(index: int) -> str:
    # Not the number alone: PEFT would take `layers.0` for a part of adapter `0`.
    return f"part{index}"


def _skeleton(base: Path) -> nn.Module:
    """The base's modules with zeros for weights, which take no memory: updates need none."""
    model = load_outline(base)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            zeros = torch.zeros((), dtype=torch.float32).expand(parameter.shape)
            setattr(module, name, nn.Parameter(zeros, requires_grad=False))
    return model


@torch.no_grad()
def _difference(model: peft.PeftModel, weights: Sequence[float]) -> float:
    """Norm of the combination less the weighted sum of the updates, relative to the sum's."""
    squared = total = 0.0
    for module in model.modules():
        if not isinstance(module, LoraLayer):
            continue
        if _TOTAL not in module.scaling:
            raise ExportError("the combination lacks a module that is updated; not published")
        found: Any = module
        exact = sum(
            weight * found.get_delta_weight(_part(i)).double()
            for i, weight in enumerate(weights)
            if _part(i) in module.scaling
        )
        difference = found.get_delta_weight(_TOTAL).double() - exact
        squared += float(difference.square().sum())
        total += float(torch.as_tensor(exact).square().sum())
    return (squared / total) ** 0.5 if total else 0.0


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
