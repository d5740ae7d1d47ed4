"""From checked inputs to a job that can train."""

import functools
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from trainer import held, model, preflight
from trainer.config import TrainConfig
from trainer.distributed import ALONE, Group
from trainer.errors import ConfigError
from trainer.generated import SCORES, Answerer, scores, spread
from trainer.job import Collate, Job
from trainer.methods import METHODS, Start
from trainer.objectives import Objective
from trainer.packing import keeps_apart
from trainer.resolve import should_hold
from trainer.schedule import seeded
from trainer.shared import SharedBase


def load_base(config: TrainConfig, task: str) -> SharedBase:
    """Loads the base as the class that learns `task`; `config` is resolved.

    Raises BaseModelError.
    """
    assert config.device is not None
    assert config.dtype is not None
    return SharedBase(
        model.load_base(
            config.base,
            quantization=config.quantization,
            dtype=model.DTYPES[config.dtype],
            device=config.device,
            task=task,
        )
    )


def make_job(
    config: TrainConfig,
    prepared: preflight.Prepared,
    base: SharedBase,
    *,
    alone: bool,
    group: Group = ALONE,
) -> Job:
    """Attaches a fresh adapter and gives the job its examples; `config` is resolved.

    `alone`: nobody else needs the base's modules, so they are not copied. `group` are the
    processes that train it.
    """
    assert config.device is not None
    assert config.dtype is not None
    device, dtype = config.device, model.DTYPES[config.dtype]
    modules = base.model if alone else base.copy()
    method, objective = METHODS[config.method.type], prepared.objective

    def with_head(loaded: PreTrainedModel) -> PreTrainedModel:
        if objective.labels:
            with seeded(config.seed, "head"):
                model.give_head(loaded, len(objective.labels))
        return loaded

    def load_unquantized() -> PreTrainedModel:
        return with_head(
            model.load_base(
                config.base, quantization="none", dtype=dtype, device=device, task=objective.task
            )
        )

    def loss(model: PreTrainedModel, example: Any) -> Tensor:
        batch = objective.collate([example], device)
        mean: Tensor = objective.summed_loss(model, batch) / batch.num_terms
        return mean

    start = Start(config, prepared.train, load_unquantized, loss)
    with seeded(config.seed, "adapter"):
        attached = method.attach(with_head(modules), prepared.method, prepared.tokenizer)
        if not alone:
            base.make_own(attached)
        method.initialise(attached, prepared.method, start)
    if should_hold(config, held.num_held_bytes(prepared.outline, dtype)):
        held.hold(attached, base.held)
    if config.gradient_checkpointing:
        # Of the two forms, the one that also works where nothing that enters a layer is trained.
        attached.activation_checkpointing_enable({"use_reentrant": False})
    collate, why_not = _packing(config, objective, attached)
    judge = None
    if objective.generates and config.loop.metric in SCORES:
        rows = spread(prepared.validation, config.loop.metric_rows)
        answerer = make_answerer(config, prepared)

        def judge(model: Any) -> dict[str, float]:
            return scores(answerer.samples(model, rows))

    return Job(
        config,
        attached,
        objective,
        prepared.train,
        prepared.validation,
        collate=collate,
        judge=judge,
        notes=why_not,
        group=group,
    )


def make_answerer(config: TrainConfig, prepared: preflight.Prepared) -> Answerer:
    """Generates answers with a model that this run trains; `config` is resolved."""
    num_virtual = METHODS[config.method.type].num_virtual_tokens(prepared.method)
    context = model.context_length(prepared.outline.config)
    return Answerer(
        prepared.tokenizer,
        config.loop.metric_tokens,
        context_length=None if context is None else context - num_virtual,
        left_pads=not num_virtual,
    )


def _packing(
    config: TrainConfig, objective: Objective, attached: Any
) -> tuple[Collate | None, tuple[str, ...]]:
    """How batches of packed rows are made, or None and, if that is not asked for, why."""
    settings = config.optimiser
    if settings.packing is False:
        return None, ()
    if METHODS[config.method.type].num_virtual_tokens(config.method):
        return None, (f"no packing: {config.method.type} puts virtual tokens before each example",)
    if not objective.can_pack:
        return None, ()
    width = attached.config.get_text_config().hidden_size
    if not keeps_apart(attached):
        why = "this base lets packed examples see each other, or counts positions by itself"
        if settings.packing:
            raise ConfigError(f"key 'optimiser.packing': true, but {why}; leave it out")
        return None, (f"no packing: {why}",)
    return functools.partial(objective.collate_packed, width=width), ()
