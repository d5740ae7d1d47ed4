"""Attaches LoRA through PEFT."""

import copy
import math
from collections.abc import Iterator
from typing import cast

import peft
import torch
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.config import LoraConfig
from trainer.errors import ConfigError
from trainer.methods.biases import copy_biases, restore_biases, train_biases_in_float32
from trainer.methods.lora.modules import layer_numbers, layers_of, linears_of
from trainer.methods.lora.variants import SUBTRACTED, complete
from trainer.methods.masters import train_in_float32
from trainer.methods.method import unload, without_peft_warnings
from trainer.model import output_head, task_of


def attach(
    base: PreTrainedModel, settings: LoraConfig, tokenizer: PreTrainedTokenizerBase
) -> peft.PeftModel:
    """Wraps `base` with fresh LoRA parameters in float32, drawn from torch's current state.

    Where the initialisation is subtracted from the base, ranks are twice those of the settings:
    room for what is trained and for what is subtracted (`trainer.methods.lora.halves`).
    """
    settings = complete(settings)
    dtype = base.dtype
    config = _peft_config(base, settings, times=2 if settings.init in SUBTRACTED else 1)
    kept = [] if settings.bias == "none" else copy_biases(base)
    with without_peft_warnings():
        model = peft.get_peft_model(base, config)
    _freeze(model, settings)
    train_biases_in_float32(kept, dtype)
    model.__dict__["kept_biases"] = kept
    # A classifier's head is float32 from the start, and stays it.
    train_in_float32((m for m in _saved(model) if m.get_parameter("weight").dtype == dtype), dtype)
    for name, parameter in model.named_parameters():
        if "trainable_tokens_delta" in name and parameter.requires_grad:
            # PEFT makes them in the base's type, and casts them to it at every use.
            parameter.data = parameter.data.to(torch.float32)
    return cast(peft.PeftModel, model)


def detach(model: peft.PeftModel) -> PreTrainedModel:
    """The base as it was before `attach`."""
    base = unload(model)
    restore_biases(model.__dict__.get("kept_biases", []))
    return base


def attach_outline(outline: PreTrainedModel, settings: LoraConfig) -> peft.PeftModel:
    """A copy of an outline on the `meta` device with the parameters that would be trained.

    Raises ConfigError with PEFT's words for what it refuses.
    """
    settings = complete(settings)
    try:
        with without_peft_warnings():
            model = peft.get_peft_model(
                copy.deepcopy(outline), _peft_config(outline, settings), low_cpu_mem_usage=True
            )
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        message = " ".join(str(error).split())[:300]
        raise ConfigError(f"key 'method': PEFT refuses it: {message}") from error
    _freeze(model, settings)
    return cast(peft.PeftModel, model)


def num_trainable(outline: PreTrainedModel, settings: LoraConfig) -> int:
    """Parameters that `attach` would train, a classifier's head apart: that is the objective's."""
    model = attach_outline(outline, settings)
    head = ".score." if task_of(outline) == "SEQ_CLS" else None
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    return sum(p.numel() for n, p in trained.items() if head is None or head not in n)


def _peft_config(model: PreTrainedModel, settings: LoraConfig, times: int = 1) -> peft.LoraConfig:
    """PEFT's configuration, with `times` the rank at the same scaling."""
    assert settings.alpha is not None
    targets: str | list[str]
    if isinstance(settings.targets, str):
        targets = settings.targets
        if targets == "all-linear" and settings.layers is not None:
            # PEFT chooses layers among names only.
            head = output_head(model)
            names = (name for name, module in linears_of(model).items() if module is not head)
            targets = sorted({name.rsplit(".", 1)[-1] for name in names})
    else:
        targets = list(settings.targets)
    layers = None if settings.layers is None else layer_numbers(model, settings.layers)
    alpha_factor = math.sqrt(times) if settings.use_rslora else times
    return peft.LoraConfig(
        task_type=task_of(model),
        r=times * settings.rank,
        # PEFT's annotation says int, its code and its own conversion take any number.
        lora_alpha=alpha_factor * settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=targets,
        layers_to_transform=layers,
        layers_pattern=settings.layers_pattern,
        rank_pattern={k: times * rank for k, rank in settings.rank_pattern.items()},
        alpha_pattern={k: alpha_factor * alpha for k, alpha in settings.alpha_pattern.items()},
        use_rslora=bool(settings.use_rslora),
        use_dora=bool(settings.use_dora),
        bias=settings.bias,
        lora_bias=settings.lora_bias,
        modules_to_save=list(settings.modules_to_save) or None,
        trainable_token_indices=list(settings.trainable_token_indices) or None,
        # All others are set by `trainer.methods.lora.start`, which also knows quantized bases, and
        # what is written is plain LoRA.
        init_lora_weights="gaussian" if settings.init == "gaussian" else True,
    )


def _saved(model: nn.Module) -> Iterator[nn.Module]:
    """Modules with a weight among those that are trained as a whole."""
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            for inner in module.modules_to_save.modules():
                if inner._parameters.get("weight") is not None:
                    yield inner


def _freeze(model: nn.Module, settings: LoraConfig) -> None:
    """Stops the training of the factors that the variant keeps."""
    for layer in layers_of(model).values():
        if settings.freeze_a:
            layer.lora_A.requires_grad_(False)
        if settings.init == "mica":
            layer.lora_B.requires_grad_(False)
