"""The modules of a base that LoRA can adapt, and those that PEFT puts around them."""

from typing import cast

from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

ADAPTER = "default"
"""PEFT's name for the only adapter of a model."""


def layers_of(model: nn.Module) -> dict[str, LoraLayer]:
    """The adapted modules of a PEFT model by their name in the base: linears and embeddings."""
    prefix = "base_model.model."
    return {
        name.removeprefix(prefix): module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def a_of(layer: LoraLayer) -> nn.Linear:
    """The factor A of an adapted linear, its weight [r, in]."""
    return cast(nn.Linear, layer.lora_A[ADAPTER])


def b_of(layer: LoraLayer) -> nn.Linear:
    """The factor B of an adapted linear, its weight [out, r]."""
    return cast(nn.Linear, layer.lora_B[ADAPTER])


def size_of(layer: LoraLayer) -> tuple[int, int]:
    """Outputs and inputs of an adapted linear."""
    assert layer.out_features is not None
    assert layer.in_features is not None
    return layer.out_features, layer.in_features


def layer_numbers(model: PreTrainedModel, layers: tuple[int, ...]) -> list[int]:
    """Numbers of layers from 0, of numbers that may count from the end."""
    depth = model.config.get_text_config().num_hidden_layers
    return [number if number >= 0 else depth + number for number in layers]


def linears_of(model: nn.Module) -> dict[str, nn.Module]:
    """Linear layers by name, the output head among them; quantized or not."""
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)}


def embeddings_of(model: nn.Module) -> dict[str, nn.Module]:
    """Embeddings by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Embedding)}


def weight_of(linear: nn.Module) -> Tensor:
    """A copy in float32 [out, in] of the weight of a linear that is not quantized."""
    weight = linear.get_parameter("weight").detach().float().clone()
    return weight.T.contiguous() if isinstance(linear, Conv1D) else weight
