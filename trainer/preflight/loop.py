"""Refuses what the loop cannot do with a run's method, objective and base."""

from transformers import PreTrainedModel

from trainer import tensorboard
from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.methods import METHODS
from trainer.objectives import Objective

# These put what they train where transformers keeps earlier keys and values, which it drops when
# it computes a layer again: the prefix would silently train nothing.
KEPT_IN_CACHE = ("prefix_tuning",)


def check_loop(config: TrainConfig, outline: PreTrainedModel, objective: Objective) -> None:
    """Raises ConfigError naming key, value and remedy; `config` is resolved."""
    _check_metric(config, objective)
    if config.loop.tensorboard:
        tensorboard.check_available()
    if config.optimiser.packing:
        if not objective.can_pack:
            raise ConfigError(
                f"key 'optimiser.packing': true, but the objective {config.objective.type!r} needs "
                "a row for each example; leave it out"
            )
        if METHODS[config.method.type].num_virtual_tokens(config.method):
            raise ConfigError(
                f"key 'optimiser.packing': true, but {config.method.type} puts its virtual tokens "
                "before each row, so each example needs its own; leave it out"
            )
    if config.gradient_checkpointing:
        if config.method.type in KEPT_IN_CACHE:
            raise ConfigError(
                f"key 'gradient_checkpointing': {config.method.type} keeps its prefix where "
                "computing a layer again drops it; set it to false"
            )
        if not outline.supports_gradient_checkpointing:
            raise ConfigError(
                f"key 'gradient_checkpointing': {type(outline).__name__} of transformers does not "
                "support it; set it to false"
            )


def _check_metric(config: TrainConfig, objective: Objective) -> None:
    settings = config.loop
    known = ("loss", *objective.scores)
    if settings.metric not in known:
        raise ConfigError(
            f"key 'loop.metric': {settings.metric!r} is not measured by the objective "
            f"{config.objective.type!r}; it has {', '.join(known)}"
        )
    watched = {"patience": settings.patience is not None, "metric": settings.metric != "loss"}
    for key, given in watched.items():
        if given and config.data.validation == 0:
            raise ConfigError(
                f"key 'loop.{key}': needs validation rows, and data.validation is 0; give a share "
                "or a file"
            )
    if settings.min_delta and settings.patience is None:
        raise ConfigError("key 'loop.min_delta': means nothing without loop.patience; give both")
