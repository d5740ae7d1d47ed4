"""How long a run will take: from its arithmetic and this machine's speed, or from timed steps."""

import time
from dataclasses import dataclass
from typing import Any

import torch

from trainer.batches import BatchPlan
from trainer.config import TrainConfig
from trainer.methods import METHODS
from trainer.model import DTYPES
from trainer.preflight.prepared import Prepared

# Products that the machine's speed is taken from, and how long to repeat them.
PROBE_ROWS = 512
PROBE_PRODUCTS = 4
PROBE_S = 0.2
# What a layer takes in each pass beside its products, forward and backward: measured on CPU.
LAYER_OVERHEAD_S = 1.2e-3


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds of training, validation included."""

    training_s: float
    step_s: float
    tokens_per_s: float
    """Of prompt and completion, without padding."""
    measured: bool
    """By timed steps of the very run; else from its number of operations."""


def estimate_time(config: TrainConfig, prepared: Prepared) -> TimeEstimate:
    """From the number of operations; `config` is resolved. Takes a fraction of a second."""
    plan = BatchPlan(prepared.train, config.optimiser, config.seed)
    outline: Any = prepared.outline
    text = outline.config.get_text_config()
    num_tokens = int(prepared.train.lengths.sum()) / max(1, len(prepared.train))
    num_tokens *= prepared.train.num_per_epoch / plan.steps_per_epoch
    head = outline.get_output_embeddings()
    outside = {
        id(p) for p in (outline.get_input_embeddings().weight, getattr(head, "weight", None))
    }
    weights = sum(p.numel() for p in outline.parameters() if id(p) not in outside)
    method = METHODS[config.method.type]
    # Forward, and back to the activations; to the weights where these are trained.
    passes = 3 if method.trains_base else 2
    passes += 1 if config.gradient_checkpointing else 0
    per_token = 2 * passes * weights + 6 * prepared.num_trainable
    mean_length = float(prepared.train.lengths.mean()) + method.num_virtual_tokens(config.method)
    per_token += passes * 2 * mean_length * text.hidden_size * text.num_hidden_layers
    speed = _products_per_s(config, text.hidden_size)
    overhead = LAYER_OVERHEAD_S * text.num_hidden_layers * config.optimiser.accumulation
    step_s = num_tokens * per_token / speed + overhead
    return of_steps(config, prepared, plan, step_s, num_tokens / step_s, measured=False)


def of_steps(
    config: TrainConfig,
    prepared: Prepared,
    plan: BatchPlan,
    step_s: float,
    tokens_per_s: float,
    *,
    measured: bool,
) -> TimeEstimate:
    """The whole run's time, from that of a step."""
    every = config.loop.validate_every or plan.steps_per_epoch
    num_validations = 1 + -(-plan.num_steps // every)
    # A forward pass is about a third of a step.
    validation_s = num_validations * float(prepared.validation.lengths.sum()) / tokens_per_s / 3
    return TimeEstimate(plan.num_steps * step_s + validation_s, step_s, tokens_per_s, measured)


def _products_per_s(config: TrainConfig, width: int) -> float:
    """Multiplications and additions per second of a product of this width."""
    assert config.dtype is not None
    kind: Any = {"dtype": DTYPES[config.dtype], "device": config.device}
    left, right = torch.ones(PROBE_ROWS, width, **kind), torch.ones(width, width, **kind)

    def wait() -> None:
        if config.device == "cuda":
            torch.cuda.synchronize()

    left @ right
    wait()
    begin, best = time.perf_counter(), float("inf")
    while (start := time.perf_counter()) - begin < PROBE_S:
        for _ in range(PROBE_PRODUCTS):
            left @ right
        wait()
        # The fastest is the least disturbed.
        best = min(best, time.perf_counter() - start)
    return 2 * PROBE_ROWS * width * width * PROBE_PRODUCTS / best
