"""What a step's number decides: its learning rate and its random state."""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainer.config import OptimiserConfig


def learning_rate_at(step: int, total: int, settings: OptimiserConfig) -> float:
    """The learning rate of step `step`, counted from 0, out of `total`.

    Rises linearly over the first `warmup_share` of the steps, then falls towards `min_share`.
    """
    assert settings.learning_rate is not None
    num_warmup = math.ceil(settings.warmup_share * total)
    if step < num_warmup:
        return settings.learning_rate * (step + 1) / num_warmup
    done = (step - num_warmup) / max(1, total - num_warmup)
    share = {
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        "linear": 1 - done,
        "constant": 1.0,
        "inverse_sqrt": math.sqrt(max(1, num_warmup) / (step + 1)),
    }[settings.schedule]
    low = settings.min_share
    return settings.learning_rate * (low + (1 - low) * share)


@contextmanager
def seeded(seed: int, purpose: str, number: int = 0) -> Iterator[None]:
    """torch's randomness inside depends on the arguments alone; outside it goes on unchanged."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{number}".encode()).digest()
    with torch.random.fork_rng():
        torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        yield
