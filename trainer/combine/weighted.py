"""The combination itself: PEFT's, over the base's modules without their weights."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import nn

from trainer.combine.recipe import RECIPES, Recipe, Source
from trainer.errors import ExportError, InputError
from trainer.model import load_outline
from understudy.artifact import TENSORS_FILE

TOTAL = "total"
# With one of these, names of targets tell not all of where an update is.
_NARROWING = ("layers_to_transform", "exclude_modules")


def combined(
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
            TOTAL,
            combination_type=RECIPES[recipe.name],
            svd_rank=recipe.rank,
            density=recipe.density,
        )
    except ValueError as error:
        message = " ".join(str(error).split())
        raise InputError(f"--recipe {recipe.name}: {message}") from error
    # PEFT takes the first one's configuration: a rank-stabilised one would scale the result again.
    config_of(adapted).use_rslora = False
    for module in adapted.modules():
        if isinstance(module, LoraLayer) and TOTAL in module.scaling:
            module.scaling[TOTAL] = 1.0
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


def config_of(model: peft.PeftModel) -> peft.LoraConfig:
    """PEFT's configuration of the combination."""
    config = model.peft_config[TOTAL]
    assert isinstance(config, peft.LoraConfig)
    return config


def check_written(model: peft.PeftModel, folder: Path) -> None:
    """Raises ExportError unless the file holds the combination's tensors, and no others."""
    written = load_file(folder / TENSORS_FILE)
    expected = {
        name.replace(f".{TOTAL}.", "."): parameter
        for name, parameter in model.named_parameters()
        if f".{TOTAL}." in name
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
def difference_from_sum(model: peft.PeftModel, weights: Sequence[float]) -> float:
    """Norm of the combination less the weighted sum of the updates, relative to the sum's."""
    squared = total = 0.0
    for module in model.modules():
        if not isinstance(module, LoraLayer):
            continue
        if TOTAL not in module.scaling:
            raise ExportError("the combination lacks a module that is updated; not published")
        found: Any = module
        exact = sum(
            weight * found.get_delta_weight(_part(i)).double()
            for i, weight in enumerate(weights)
            if _part(i) in module.scaling
        )
        difference = found.get_delta_weight(TOTAL).double() - exact
        squared += float(difference.square().sum())
        total += float(torch.as_tensor(exact).square().sum())
    return (squared / total) ** 0.5 if total else 0.0
