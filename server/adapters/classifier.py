"""Sequence-classification heads as PEFT saves them beside a method's own tensors.

transformers calls the head `score`: a linear map over the final hidden state of the last token.
"""

from collections.abc import Mapping
from typing import Any

import torch

from server.adapters.peft_format import CONFIG, PREFIX, TENSORS, check_fits, check_tensor
from server.adapters.saved_modules import saved_names
from server.adapters.weights import Classifier
from server.errors import AdapterRefusedError
from server.types import BaseInfo

TASK = "SEQ_CLS"
_LABELS = "id2label"

# Methods that wrap no linears name the head without the wrapper.
_HEADS = (f"{PREFIX}score.weight", "base_model.score.weight")
# PEFT names both in modules_to_save, whichever the model has.
_HEAD_NAMES = ("score", "classifier")


def take_classifier(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], base: BaseInfo
) -> tuple[Mapping[str, Any], Mapping[str, torch.Tensor], Classifier | None]:
    """The configuration and tensors without the head, as those of an adapter of a causal language
    model, and the head. As they are where the adapter does not classify.

    Raises AdapterRefusedError naming the key or tensor at fault.
    """
    if config.get("task_type") != TASK:
        return config, tensors, None
    if not base.has_body:
        raise AdapterRefusedError(
            f"{CONFIG}: task_type {TASK!r}: {base.architecture} has no final hidden states apart "
            "from its output head"
        )
    name = next((name for name in _HEADS if name in tensors), None)
    if name is None:
        raise AdapterRefusedError(f"{TENSORS}: missing tensor {_HEADS[0]!r}")
    weight = tensors[name]
    check_tensor(name, weight, (None, base.hidden_size))
    check_fits(name, weight, "float32")
    left = dict(config)
    labels = _labels(left.pop(_LABELS, None), len(weight))
    saved = [other for other in saved_names(config) if other not in _HEAD_NAMES]
    left |= {"task_type": "CAUSAL_LM", "modules_to_save": saved or None}
    others = {other: tensor for other, tensor in tensors.items() if other != name}
    return left, others, Classifier(weight, labels)


def _labels(names: object, count: int) -> tuple[str, ...]:
    """Names of `count` labels from `id2label`, numbered where it is not there."""
    if names is None:
        return tuple(f"LABEL_{i}" for i in range(count))
    wanted = [str(i) for i in range(count)]
    if (
        not isinstance(names, dict)
        or names.keys() != set(wanted)
        or not all(isinstance(label, str) for label in names.values())
    ):
        raise AdapterRefusedError(
            f"{CONFIG}: {_LABELS} must name each of the {count} labels of the head, from '0' to "
            f"'{count - 1}'"
        )
    return tuple(names[i] for i in wanted)
