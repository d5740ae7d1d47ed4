"""IA3 through PEFT: factors on outputs of linears, and on inputs of feed-forward ones."""

import dataclasses
from pathlib import Path
from typing import Any, cast

import peft
import torch
from peft.tuners.ia3 import IA3Layer
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as PEFT_FEEDFORWARD,
)
from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as PEFT_TARGETS
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from trainer.config.methods import IA3Config
from trainer.errors import ConfigError
from trainer.methods.choose import choose, linears
from trainer.methods.method import Method, read_adapter
from trainer.model import task_of

# Liu et al. (arXiv 2205.05638), section 3.5, with Adafactor.
LEARNING_RATE = 3e-3

# Section 3.3 there, in the names of Llama and of most models since.
_TARGETS, _FEEDFORWARD = ("k_proj", "v_proj", "down_proj"), ("down_proj",)


def bind(
    settings: IA3Config, outline: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> IA3Config:
    """`settings` with targets and which of them are feed-forward. Raises ConfigError."""
    targets, feedforward = settings.targets, settings.feedforward
    if (targets is None) != (feedforward is None):
        raise ConfigError("keys 'method.targets' and 'method.feedforward': give both or none")
    if targets is None or feedforward is None:
        targets, feedforward = _defaults(outline)
    modules = linears(outline)
    chosen = choose(modules, targets, "method.targets", "linear layer")
    scaled = choose(chosen, feedforward, "method.feedforward", "target") if feedforward else {}
    # PEFT tells feed-forward modules by the ends of paths, parts or not.
    for path in chosen.keys() - scaled.keys():
        if any(path.endswith(end) for end in feedforward):
            raise ConfigError(f"key 'method.feedforward': would take {path!r} too; name more of it")
    return dataclasses.replace(settings, targets=targets, feedforward=feedforward)


def attach(
    base: PreTrainedModel, settings: IA3Config, tokenizer: PreTrainedTokenizerBase
) -> peft.PeftModel:
    """Wraps `base` with factors of 1, in float32."""
    targets = settings.targets or ()
    chosen = choose(linears(base), targets, "method.targets", "linear layer")
    dtype = base.dtype
    model = peft.get_peft_model(
        base,
        peft.IA3Config(
            task_type=task_of(base),
            target_modules=list(targets),
            feedforward_modules=list(settings.feedforward or ()),
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in chosen.values()),
        ),
    )
    _keep_dtype(model, dtype)
    return model


def detach(model: peft.PeftModel) -> PreTrainedModel:
    """The base as it was before `attach`. PEFT refuses to do so where the base is quantized."""
    base = cast(PreTrainedModel, model.get_base_model())
    for path, layer in list(base.named_modules()):
        if isinstance(layer, IA3Layer):
            base.set_submodule(path, layer.get_base_layer())
    return base


def reread(base: PreTrainedModel, directory: Path) -> Any:
    """The base with the adapter that was written."""
    dtype = base.dtype
    model = read_adapter(base, directory)
    _keep_dtype(model, dtype)
    return model


def num_trainable(outline: PreTrainedModel, settings: IA3Config) -> int:
    """Factors that `attach` would add."""
    feedforward = settings.feedforward or ()
    chosen = choose(linears(outline), settings.targets or (), "method.targets", "linear layer")
    return sum(
        _shape(module)[any(path.endswith(end) for end in feedforward)]
        for path, module in chosen.items()
    )


def _defaults(outline: PreTrainedModel) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Targets, and the feed-forward ones of them."""
    names = {path.rsplit(".", 1)[-1] for path in linears(outline)}
    if set(_TARGETS) <= names:
        return _TARGETS, _FEEDFORWARD
    kind = outline.config.model_type
    if kind not in PEFT_TARGETS:
        raise ConfigError(
            f"key 'method.targets': IA3 has no targets for a {kind!r} base; name them, and in "
            f"method.feedforward those of them that end a feed-forward block; there are "
            f"{', '.join(sorted(names))}"
        )
    return tuple(PEFT_TARGETS[kind]), tuple(PEFT_FEEDFORWARD.get(kind, ()))


def _keep_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Casts what the adapted linears give to the base's type: PEFT returns it in the factors'
    float32 where a linear has 4 bits."""
    for layer in model.modules():
        if isinstance(layer, IA3Layer):
            layer.register_forward_hook(lambda _module, _given, result: result.to(dtype))


def _shape(module: nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a linear."""
    weight: Any = module.weight
    outputs, inputs = weight.shape
    return (inputs, outputs) if isinstance(module, Conv1D) else (outputs, inputs)


METHOD = Method(
    bind=bind,
    attach=attach,
    detach=detach,
    num_trainable=num_trainable,
    learning_rate=LEARNING_RATE,
    reread=reread,
)
