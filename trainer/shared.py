"""One frozen base under several adapters: each has modules of its own, all have the same storage.

PEFT puts its layers into the modules that it is given, so every adapter needs its own. What is
large are the weights, and those are the same memory in every copy: float, int8 and 4-bit, with
their scales, and what `trainer.held` dequantizes.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from bitsandbytes.autograd._functions import MatmulLtState
from bitsandbytes.functional import QuantState
from bitsandbytes.nn.modules import Params4bit
from torch import Tensor, nn
from transformers import PreTrainedModel


@dataclass
class SharedBase:
    """A loaded base that no adapter has touched."""

    model: PreTrainedModel
    held: dict[int, Tensor] = field(default_factory=dict)
    """What `trainer.held.hold` dequantized, by the address of the weight it came from."""
    _num_weight_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self._num_weight_bytes = sum(storages(self.model).values())

    def copy(self) -> PreTrainedModel:
        """Modules, parameters and configuration of their own over the same storage.

        What is set on one of them (`requires_grad`, `data`, a hook, a wrapped layer) does not show
        in another; what is written into a tensor in place does, so trained parameters must not lie
        there: see `make_own`.
        """
        memo: dict[int, Any] = {id(p): _alias(p) for p in self.model.parameters()}
        memo |= {id(tensor): tensor for tensor in self.model.buffers()}
        for module in self.model.modules():
            for value in vars(module).values():
                if isinstance(value, QuantState):
                    memo[id(value)] = value
                elif isinstance(value, MatmulLtState):
                    memo |= {id(t): t for t in vars(value).values() if isinstance(t, Tensor)}
        copied = copy.deepcopy(self.model, memo)
        for module in copied.modules():
            if isinstance(weight := getattr(module, "weight", None), Params4bit):
                weight.module = module
        strays = storages(copied).keys() - storages(self.model).keys()
        assert not strays, f"{len(strays)} tensors of the base would be held in memory twice"
        return copied

    def make_own(self, model: nn.Module) -> None:
        """Gives the trained parameters of `model`, attached to a copy, storage of their own."""
        shared = storages(self.model)
        for parameter in model.parameters():
            if parameter.requires_grad and _address(parameter) in shared:
                parameter.data = parameter.data.clone()

    @property
    def num_bytes(self) -> int:
        """Memory that the base takes, once for all copies: its tensors and what was dequantized."""
        return self._num_weight_bytes + num_bytes_in(self.held)


def storages(model: nn.Module) -> dict[int, int]:
    """Bytes of each storage behind `model`'s tensors, those of quantization too, by address."""
    return {_address(t): t.untyped_storage().nbytes() for t in _tensors(model)}


def num_bytes_in(value: Any) -> int:
    """Memory of the tensors anywhere in nested mappings, lists and tuples, each storage once."""
    return sum({_address(t): t.untyped_storage().nbytes() for t in _nested(value)}.values())


def _nested(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _nested(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _nested(inner)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.buffers()
    for parameter in model.parameters():
        yield parameter
        yield from _attached(parameter)
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, QuantState | MatmulLtState):
                yield from _attached(value)


def _attached(owner: Any) -> Iterator[Tensor]:
    """Tensors among the attributes of a parameter or a state of quantization, to any depth."""
    for value in vars(owner).values():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, QuantState | MatmulLtState):
            yield from _attached(value)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _alias(parameter: nn.Parameter) -> nn.Parameter:
    """Another parameter of the same class, attributes and storage."""
    kind, trained = type(parameter), parameter.requires_grad
    alias: nn.Parameter = torch.Tensor._make_subclass(kind, parameter.data, trained)
    alias.__dict__.update(parameter.__dict__)
    return alias
