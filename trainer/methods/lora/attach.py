"""Attaches LoRA through PEFT."""

import copy
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import peft
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.config import LoraConfig
from trainer.errors import ConfigError
from trainer.methods.lora.modules import layers_of, linears_of
from trainer.methods.lora.variants import SUBTRACTED, complete
from trainer.model import output_head, task_of


def attach(
    base: PreTrainedModel, settings: LoraConfig, tokenizer: PreTrainedTokenizerBase
) -> peft.PeftModel:
    """Wraps `base` with fresh LoRA parameters in float32, drawn from torch's current state.

    Where the initialisation is subtracted from the base, ranks are twice those of the settings:
    room for what is trained and for what is subtracted (`trainer.methods.lora.halves`).
    """
    settings = complete(settings)
    config = _peft_config(base, settings, times=2 if settings.init in SUBTRACTED else 1)
    with _quiet():
        model = peft.get_peft_model(base, config)
    _freeze(model, settings)
    return cast(peft.PeftModel, model)


def detach(model: peft.PeftModel) -> PreTrainedModel:
    """The base as it was before `attach`."""
    return cast(PreTrainedModel, model.unload())


def attach_outline(outline: PreTrainedModel, settings: LoraConfig) -> peft.PeftModel:
    """A copy of an outline on the `meta` device with the parameters that would be trained.

    Raises ConfigError with PEFT's words for what it refuses.
    """
    settings = complete(settings)
    try:
        with _quiet():
            model = peft.get_peft_model(
                copy.deepcopy(outline), _peft_config(outline, settings), low_cpu_mem_usage=True
            )
    except (ValueError, TypeError, KeyError) as error:
        message = " ".join(str(error).split())[:300]
        raise ConfigError(f"key 'method': PEFT refuses it: {message}") from error
    _freeze(model, settings)
    return cast(peft.PeftModel, model)


def num_trainable(outline: PreTrainedModel, settings: LoraConfig) -> int:
    """Parameters that `attach` would add, and those of the base that it would train."""
    model = attach_outline(outline, settings)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


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
    alpha_factor = math.sqrt(times) if settings.use_rslora else times
    return peft.LoraConfig(
        task_type=task_of(model),
        r=times * settings.rank,
        # PEFT's annotation says int, its code and its own conversion take any number.
        lora_alpha=alpha_factor * settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=targets,
        layers_to_transform=None if settings.layers is None else list(settings.layers),
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


def _freeze(model: nn.Module, settings: LoraConfig) -> None:
    """Stops the training of the factors that the variant keeps."""
    for layer in layers_of(model).values():
        if settings.freeze_a:
            layer.lora_A.requires_grad_(False)
        if settings.init == "mica":
            layer.lora_B.requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # Of PEFT about embeddings that are tied, biases, and Conv1D's layout, which it then sets.
        warnings.simplefilter("ignore", UserWarning)
        yield
