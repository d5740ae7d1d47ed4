"""Peak memory of a run, part by part."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from trainer import held
from trainer.batches import BatchPlan
from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.estimate.activations import activation_bytes
from trainer.estimate.available import available_bytes
from trainer.estimate.shapes import LargestBatch, largest_batch
from trainer.methods import METHODS
from trainer.model import DTYPES
from trainer.preflight.prepared import Prepared
from trainer.resolve import should_hold

# Bytes of optimiser state per trained parameter. Adafactor keeps sums of rows and columns only.
OPTIMISER_BYTES = {"adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2, "adafactor": 0, "sgd": 4}
# A parameter, its gradient, the best state so far, and the copy that a checkpoint is written from.
BYTES_PER_TRAINED = 4 + 4 + 4 + 4
# NF4: half a byte, and per block of 64 one byte of scale, doubly quantized.
NF4_BLOCK = 64
# What torch, its threads and the kernels take on first use, beyond tensors: measured on CPU.
RUNTIME_BYTES = {"cpu": 60 << 20, "cuda": 700 << 20}
# What the allocator takes for a byte of tensors that come and go. On CPU, the C library's keeps
# freed memory in pieces that the next tensors do not fit: 1.3 to 1.9 measured. Where every large
# tensor is mapped by itself (MALLOC_MMAP_THRESHOLD_) it is 1.0, and a step takes 1.4 times as long.
ALLOCATED_PER_BYTE = {"cpu": 1.7, "cuda": 1.1}
# The way back holds gradients beside what the forward pass left: of the logits two, of a layer its
# widest tensors.
NUM_LOGIT_GRADIENTS = 2
NUM_LAYER_GRADIENTS = 4


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device that trains, beside what the process holds already."""

    weights: int
    """The base, quantized."""
    held: int
    """Its weights once more, dequantized (`hold_dequantized`)."""
    trained: int
    """Trained parameters, gradients, optimiser, best state, checkpoint."""
    activations: int
    """What the largest batch leaves for the way back."""
    gradients: int
    """Of activations, on the way back."""
    runtime: int
    """Of torch itself."""

    @property
    def total(self) -> int:
        """Their sum."""
        return sum(asdict(self).values())

    def text(self) -> str:
        """One line of the parts that matter."""
        parts = [
            f"{name} {size(value)}"
            for name, value in asdict(self).items()
            if value * 50 >= self.total
        ]
        return f"{size(self.total)} ({', '.join(parts)})"


def estimate_memory(config: TrainConfig, prepared: Prepared) -> MemoryEstimate:
    """Peak memory of one run; `config` is resolved. Loads no weights."""
    assert config.device is not None
    assert config.dtype is not None
    dtype = DTYPES[config.dtype]
    plan = BatchPlan(prepared.train, config.optimiser, config.seed)
    batch = largest_batch(config, prepared.train, plan)
    allocated = ALLOCATED_PER_BYTE[config.device]
    held_bytes = held.num_held_bytes(prepared.outline, dtype)
    per_trained = BYTES_PER_TRAINED + OPTIMISER_BYTES[config.optimiser.algorithm]
    if METHODS[config.method.type].trains_base:
        # Its parameter is counted with the weights.
        per_trained -= 4
    return MemoryEstimate(
        weights=weight_bytes(prepared.outline, config),
        held=held_bytes if should_hold(config, held_bytes) else 0,
        trained=prepared.num_trainable * per_trained,
        activations=int(allocated * activation_bytes(config, prepared, batch)),
        gradients=int(allocated * _gradient_bytes(config, prepared, batch)),
        runtime=RUNTIME_BYTES[config.device],
    )


def combined(estimates: Sequence[MemoryEstimate]) -> MemoryEstimate:
    """Several jobs over one base: they share it, keep their own state, and step in turns."""
    return MemoryEstimate(
        weights=max(one.weights for one in estimates),
        held=max(one.held for one in estimates),
        trained=sum(one.trained for one in estimates),
        activations=max(one.activations for one in estimates),
        gradients=max(one.gradients for one in estimates),
        runtime=max(one.runtime for one in estimates),
    )


def check_memory(configs: Sequence[TrainConfig], prepared: Sequence[Prepared]) -> MemoryEstimate:
    """The estimate of a run of these jobs. Raises ConfigError if there is not so much memory."""
    found = combined(
        [estimate_memory(config, one) for config, one in zip(configs, prepared, strict=True)]
    )
    first = configs[0]
    available = available_bytes(first.device or "cpu")
    if available is None or found.total <= available or first.allow_memory:
        return found
    length = max(int(one.train.lengths.max()) for one in prepared)
    remedies = [
        f"optimiser.batch_size ({first.optimiser.batch_size})",
        f"data.max_length ({length})",
    ]
    if found.held:
        remedies.append("hold_dequantized (false)")
    checkpointing = "" if first.gradient_checkpointing else "set gradient_checkpointing=true, "
    raise ConfigError(
        f"estimated memory {found.text()} is more than the {size(available)} that "
        f"{'the GPU has free' if first.device == 'cuda' else 'is available'}; lower "
        f"{' or '.join(remedies)}, {checkpointing}or set allow_memory=true to try all the same"
    )


def weight_bytes(outline: PreTrainedModel, config: TrainConfig) -> int:
    """Bytes of the base's weights as the trainer holds them: linear layers quantized, but for the
    output head; everything else in the type it computes with."""
    assert config.dtype is not None
    itemsize = DTYPES[config.dtype].itemsize
    head = outline.get_output_embeddings()
    quantized = {
        id(module.weight): module.weight
        for module in outline.modules()
        if config.quantization != "none" and isinstance(module, nn.Linear) and module is not head
    }
    total = 0
    for parameter in outline.parameters():
        if id(parameter) not in quantized:
            total += parameter.numel() * itemsize
        elif config.quantization == "nf4":
            total += parameter.numel() // 2 + parameter.numel() // NF4_BLOCK
        else:
            total += parameter.numel() + 4 * len(parameter)
    return total


def _gradient_bytes(config: TrainConfig, prepared: Prepared, batch: LargestBatch) -> int:
    assert config.dtype is not None
    text: Any = prepared.outline.config.get_text_config()
    num_virtual = METHODS[config.method.type].num_virtual_tokens(config.method)
    num_tokens = batch.num_rows * (batch.length + num_virtual)
    widest = max(text.hidden_size, getattr(text, "intermediate_size", None) or 0)
    in_layer = NUM_LAYER_GRADIENTS * num_tokens * widest * DTYPES[config.dtype].itemsize
    of_logits = NUM_LOGIT_GRADIENTS * batch.num_terms * text.vocab_size * 4
    return int(max(in_layer, of_logits))


def size(num_bytes: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"
