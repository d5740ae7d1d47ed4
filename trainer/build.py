"""From checked inputs to a job that can train."""

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from trainer import held, model, preflight
from trainer.config import TrainConfig
from trainer.job import Job
from trainer.methods import METHODS, Start
from trainer.resolve import should_hold
from trainer.schedule import seeded


def make_job(config: TrainConfig, prepared: preflight.Prepared) -> Job:
    """Loads the base, attaches a fresh adapter and gives the job its examples.

    `config` is resolved. Raises BaseModelError.
    """
    assert config.device is not None
    assert config.dtype is not None
    dtype = model.DTYPES[config.dtype]
    base = model.load_base(
        config.base,
        quantization=config.quantization,
        dtype=dtype,
        device=config.device,
        task=prepared.objective.task,
    )
    if prepared.objective.labels:
        with seeded(config.seed, "head"):
            model.give_head(base, len(prepared.objective.labels))
    method, objective = METHODS[config.method.type], prepared.objective

    def summed_loss(model: PreTrainedModel, example: Any) -> Tensor:
        return objective.summed_loss(model, objective.collate([example], str(model.device)))

    with seeded(config.seed, "adapter"):
        attached = method.attach(base, prepared.method, prepared.tokenizer)
        method.initialise(attached, prepared.method, Start(config, prepared.train, summed_loss))
    if should_hold(config, held.num_held_bytes(prepared.outline, dtype)):
        held.hold(attached)
    return Job(config, attached, objective, prepared.train, prepared.validation)
