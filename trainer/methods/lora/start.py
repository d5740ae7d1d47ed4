"""Initial updates that PEFT cannot compute on a quantized base, and those that look at examples.

PEFT decomposes the weights of the model that it adapts: for PiSSA, CorDA, MiCA and LoRA-GA it
refuses quantized ones, and the orthogonal initialisation casts the factors to the weight's dtype,
which there is an integer. So each is computed by PEFT on a plain linear that holds the unquantized
weight, and its factors are put into the layer that trains.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.config import CordaConfig, LoraGAConfig
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.loraga import preprocess_loraga
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from transformers import PreTrainedModel

from trainer.config import LoraConfig
from trainer.methods.lora.directions import principal_directions
from trainer.methods.lora.halves import split
from trainer.methods.lora.modules import ADAPTER, a_of, b_of, layers_of, size_of, weight_of
from trainer.methods.lora.variants import DECOMPOSED, SUBTRACTED, complete
from trainer.methods.method import Start

Factors = tuple[Tensor, Tensor]


def initialise(model: peft.PeftModel, settings: LoraConfig, start: Start) -> None:
    """Sets A and B of each layer of a model just attached, in float32. Raises DataError, or
    BaseModelError where the unquantized base cannot be loaded."""
    settings = complete(settings)
    layers = layers_of(model)
    if settings.init == "eva":
        ranks = {name: layer.r[ADAPTER] for name, layer in layers.items()}
        found = principal_directions(
            model,
            {n: m.get_base_layer() for n, m in layers.items()},
            ranks,
            _chosen(start, settings),
            start.loss,
        )
        for name, layer in layers.items():
            _set(layer, found[name], None)
    elif settings.init == "orthogonal":
        for layer in layers.values():
            weight = torch.empty(size_of(layer))
            _set(layer, *_by_peft(weight, layer, settings))
    elif settings.init in DECOMPOSED:
        _decompose(layers, settings, start)


@torch.no_grad()
def _decompose(layers: Mapping[str, LoraLayer], settings: LoraConfig, start: Start) -> None:
    source = start.load_unquantized()
    linears = {name: source.get_submodule(name) for name in layers}
    if settings.init == "corda":
        _covariances(source, settings, layers, start)
    elif settings.init == "lora_ga":
        _gradients(source, settings, layers, start)
    for name, layer in layers.items():
        weight = weight_of(linears[name]).to(a_of(layer).weight.device)
        if settings.init == "loftq":
            _set(layer, *_of_quantization_error(weight, layer))
            continue
        factors = _by_peft(weight, layer, settings, linears[name])
        if settings.init in SUBTRACTED:
            split(layer, *factors)
        else:
            _set(layer, *factors)
    # Now, not when the collector finds the model.
    for parameter in source.parameters():
        parameter.data = torch.empty(0)


def _by_peft(
    weight: Tensor, layer: LoraLayer, settings: LoraConfig, source: nn.Module | None = None
) -> Factors:
    """What PEFT starts A [r, in] and B [out, r] at for `weight` [out, in], which it may change.

    `source` has what PEFT's preparations left on the linear that the weight is of.
    """
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    for key in ("eigens", "_peft_loraga_grad"):
        if (value := getattr(source, key, None)) is not None:
            setattr(linear, key, value)
    times = 2 if settings.init in SUBTRACTED else 1
    rank = layer.r[ADAPTER] // times
    config = _config_of(settings, rank, alpha=layer.scaling[ADAPTER] * rank)
    alone = peft.tuners.lora.Linear(linear, ADAPTER, config, r=rank, lora_alpha=config.lora_alpha)
    return (
        a_of(alone).weight.detach().float(),
        b_of(alone).weight.detach().float(),
    )


def _config_of(settings: LoraConfig, rank: int, **changes: Any) -> peft.LoraConfig:
    """A configuration of PEFT with this initialisation; scaling is alpha / rank."""
    init: Any = settings.init
    if init == "pissa" and settings.svd_iterations != "exact":
        init = f"pissa_niter_{settings.svd_iterations}"
    return peft.LoraConfig(
        r=rank,
        lora_alpha=changes.pop("alpha", rank),
        init_lora_weights=init,
        # The training task's own directions. The other mode wants samples of what is not to be
        # forgotten, which are not the training examples.
        corda_config=CordaConfig(corda_method="ipm") if init == "corda" else None,
        lora_ga_config=LoraGAConfig() if init == "lora_ga" else None,
        **changes,
    )


def _covariances(
    source: PreTrainedModel, settings: LoraConfig, layers: Mapping[str, LoraLayer], start: Start
) -> None:
    """Leaves CorDA's decomposition on the linears of `source`."""

    def run() -> None:
        for example in _chosen(start, settings):
            start.loss(source, example)

    preprocess_corda(source, _config_for(settings, layers), run_model=run)


def _gradients(
    source: PreTrainedModel, settings: LoraConfig, layers: Mapping[str, LoraLayer], start: Start
) -> None:
    """Leaves LoRA-GA's gradients on the linears of `source`."""

    def run() -> None:
        for example in _chosen(start, settings):
            start.loss(source, example).backward()

    with warnings.catch_warnings():
        # Of torch, for the first layers: nothing that enters them has a gradient.
        warnings.simplefilter("ignore", UserWarning)
        preprocess_loraga(source, _config_for(settings, layers), train_step=run)


def _config_for(settings: LoraConfig, layers: Mapping[str, LoraLayer]) -> peft.LoraConfig:
    """For PEFT's preparations over a whole model: the same layers and ranks."""
    return _config_of(
        settings,
        settings.rank,
        target_modules=list(layers),
        rank_pattern={name: layer.r[ADAPTER] // 2 for name, layer in layers.items()},
    )


def _of_quantization_error(weight: Tensor, layer: LoraLayer) -> Factors:
    """LoftQ (arXiv 2310.08659) with one iteration, which leaves the quantized base as it is: the
    update nearest to what quantization took away.

    PEFT's own `replace_lora_weights_loftq` leaves out the scaling: its update is then alpha / rank
    times too large.
    """
    base = layer.get_base_layer()
    rank = layer.r[ADAPTER]
    lost = weight - dequantize_module_weight(base).float()
    left, values, right = torch.linalg.svd(lost, full_matrices=False)
    root = (values[:rank] / layer.scaling[ADAPTER]).sqrt()
    return root[:, None] * right[:rank], left[:, :rank] * root


def _chosen(start: Start, settings: LoraConfig) -> list[Any]:
    """Training examples, drawn from torch's current state."""
    order = torch.randperm(len(start.examples))[: settings.init_examples].tolist()
    return [start.examples[index] for index in order]


def _set(layer: LoraLayer, a: Tensor, b: Tensor | None) -> None:
    """Starts `layer` at A and B; without B at zero."""
    with torch.no_grad():
        a_of(layer).weight.copy_(a)
        if b is not None:
            b_of(layer).weight.copy_(b)
