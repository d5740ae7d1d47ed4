"""Chosen modules, trained as a whole: `modules_to_save` of a PEFT adapter with nothing else."""

import dataclasses

import peft
from peft.utils import ModulesToSaveWrapper
from peft.utils.constants import DUMMY_TARGET_MODULES
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.config import TrainConfig
from trainer.config.methods import LayersConfig
from trainer.errors import ConfigError
from trainer.methods.choose import choose, linears, norms, num_parameters
from trainer.methods.masters import train_in_float32
from trainer.methods.method import Method, unload, without_peft_warnings
from trainer.model import task_of

# Of full fine-tuning, which see: these are the base's own weights, too.
LEARNING_RATE = 2e-5


def complete(settings: LayersConfig) -> LayersConfig:
    """Raises ConfigError if nothing is chosen."""
    if not settings.layers and not settings.modules:
        raise ConfigError(
            "key 'method.modules': name modules to train, or decoder layers in method.layers"
        )
    return settings


def check(config: TrainConfig, outline: PreTrainedModel) -> None:
    """Raises ConfigError for linears that are quantized."""
    assert isinstance(config.method, LayersConfig)
    whole = linears(outline)
    quantized = next((path for path in _chosen(outline, config.method) if path in whole), None)
    if config.quantization != "none" and quantized is not None:
        raise ConfigError(
            f"key 'method.modules': {quantized!r} is a linear, and quantized as "
            f"{config.quantization!r}: whole numbers are not trained; set quantization to none, "
            "choose norms, embeddings or the output head, or train an update with lora"
        )


def bind(
    settings: LayersConfig, outline: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> LayersConfig:
    """`settings` with the whole paths of all modules."""
    return dataclasses.replace(
        settings, layers=None, modules=tuple(sorted(_chosen(outline, settings)))
    )


def attach(
    base: PreTrainedModel, settings: LayersConfig, tokenizer: PreTrainedTokenizerBase
) -> peft.PeftModel:
    """Wraps `base` with copies of the modules, in float32."""
    dtype = base.dtype
    paths = settings.modules or ()
    # PEFT has no method of saved modules alone: this one adapts nothing.
    wanted = peft.LoraConfig(
        task_type=task_of(base),
        r=1,
        lora_alpha=1,
        target_modules=DUMMY_TARGET_MODULES,
        modules_to_save=list(paths),
    )
    with without_peft_warnings():
        model = peft.get_peft_model(base, wanted)
    saved = (m for m in model.modules() if isinstance(m, ModulesToSaveWrapper))
    train_in_float32((m.modules_to_save["default"] for m in saved), dtype)
    return model


def detach(model: peft.PeftModel) -> PreTrainedModel:
    """The base as it was before `attach`."""
    return unload(model)


def num_trainable(outline: PreTrainedModel, settings: LayersConfig) -> int:
    """Parameters of the modules."""
    return num_parameters(_chosen(outline, settings).values())


def _chosen(outline: PreTrainedModel, settings: LayersConfig) -> dict[str, nn.Module]:
    """The modules to train, by path. Raises ConfigError for what cannot be, or is not there."""
    whole = {p: m for p, m in outline.named_modules() if any(True for _ in m.parameters(False))}
    if settings.layers:
        stack = _layers(outline)
        wanted = {_number(number, len(stack[1])) for number in settings.layers}
        starts = tuple(f"{stack[0]}.{number}." for number in wanted)
        whole = {path: module for path, module in whole.items() if path.startswith(starts)}
    chosen = (
        choose(whole, settings.modules, "method.modules", "module") if settings.modules else whole
    )
    servable = {**linears(outline), **norms(outline)}.values()
    # A classifier's head is trained with every method.
    ends = (outline.get_input_embeddings(), outline.get_output_embeddings())
    for path, module in chosen.items():
        if not any(module is other for other in (*servable, *ends)):
            raise ConfigError(
                f"key 'method.modules': {path!r} is no linear, norm, token embedding or output "
                "head; no adapter holds others"
            )
    return chosen


def _layers(outline: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The decoder's layers and their path."""
    lists = {p: m for p, m in outline.named_modules() if isinstance(m, nn.ModuleList)}
    depth = outline.config.get_text_config().num_hidden_layers
    found = [(path, modules) for path, modules in lists.items() if len(modules) == depth]
    if not found:
        raise ConfigError("key 'method.layers': this base has no list of layers; name modules")
    return min(found, key=lambda pair: len(pair[0]))


def _number(number: int, depth: int) -> int:
    if not -depth <= number < depth:
        raise ConfigError(
            f"key 'method.layers': {number} is no layer of the base, which has 0 to {depth - 1}"
        )
    return number % depth


METHOD = Method(
    complete=complete,
    check=check,
    bind=bind,
    attach=attach,
    detach=detach,
    num_trainable=num_trainable,
    learning_rate=LEARNING_RATE,
)
