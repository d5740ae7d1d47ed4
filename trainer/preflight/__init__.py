"""Everything that can refuse a run before the base's weights are loaded."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import nn
from transformers import PreTrainedModel

from trainer import model
from trainer.config import TrainConfig
from trainer.data.disk import Chained
from trainer.errors import ConfigError, InputError
from trainer.inputs import check_base
from trainer.methods import METHODS
from trainer.methods.method import Method
from trainer.objectives import OBJECTIVES
from trainer.preflight.content import check_encoded, check_ids, check_texts, check_trainable
from trainer.preflight.encoding import encode_texts
from trainer.preflight.leaks import look_for_leaks, without
from trainer.preflight.lengths import max_length_of
from trainer.preflight.loop import check_loop
from trainer.preflight.mixing import mix
from trainer.preflight.prepared import Prepared, PreparedTask
from trainer.preflight.reading import ReadingView
from trainer.preflight.split import Part
from trainer.preflight.storage import storage_for
from trainer.preflight.texts import joined, read_texts
from trainer.preflight.wording import choose_wordings
from trainer.tasks import Task, tasks_of
from understudy.artifact import ArtifactError, check_name

__all__ = ["Prepared", "choose_wordings", "prepare"]


T = TypeVar("T")


def prepare(config: TrainConfig, *, quiet: bool = True) -> Prepared:
    """Reads and checks everything but the weights; `config` is resolved.

    `quiet` shows no progress.

    Raises ConfigError, DataError or BaseModelError.
    """
    try:
        check_name(config.name)
    except ArtifactError as error:
        raise ConfigError(f"key 'name': {error}") from error
    check_base(config.base)
    base_config = model.read_config(config.base)
    objective = OBJECTIVES[config.objective.type](config.objective, base_config)
    outline = model.load_outline(config.base, objective.task)
    model.check_shapes(config.base, outline)
    tokenizer = model.load_tokenizer(config.base)
    max_length = max_length_of(config, outline)
    method = METHODS[config.method.type]
    method.check(config, outline)
    check_loop(config, outline, objective)
    settings = method.bind(config.method, outline, tokenizer)
    num_trainable = method.num_trainable(outline, settings)
    if num_trainable >= outline.num_parameters() and not method.trains_base:
        raise _too_large(method, settings, outline, num_trainable)

    with ReadingView(quiet) as view:
        tasks = tasks_of(config)
        parts: tuple[Part, ...] = ("train", "validation", "test")
        sources = [{part: task.sources(part) for part in parts} for task in tasks]
        opened = [source for of in sources for part in parts for source in of[part]]
        storage = storage_for(config, opened, len(tokenizer))
        texts = [
            _named(task, partial(read_texts, task, of, tokenizer, objective, storage, view))
            for task, of in zip(tasks, sources, strict=True)
        ]
        held_out_paths = _paths(config.data.held_out) if config.data.held_out else ()
        drawn = frozenset(part for part in parts if not any(of[part] for of in sources))
        report = look_for_leaks(
            texts, held_out_paths, config.data.on_leak, drawn, config.data.group_key
        )
        texts = without(texts, report.dropped)
        check_texts(joined(texts).train)
        objective = objective.bound(joined(texts).train)
        num_trainable += len(objective.labels) * model.head_width(outline)
        check_trainable(num_trainable)
        encoded = [
            _named(
                of.task, partial(encode_texts, of, tokenizer, objective, max_length, storage, view)
            )
            for of in texts
        ]
    train, validation = mix(config, tasks, encoded)
    check_encoded(config, train)
    check_ids((train, validation), tokenizer, _num_embeddings(outline))
    return Prepared(
        tokenizer=tokenizer,
        outline=outline,
        method=method.with_examples(settings, train, tokenizer),
        objective=objective,
        tasks=tuple(
            PreparedTask(
                name=of.task.name,
                wordings=of.wordings,
                num_by_wording=ids.num_by_wording,
                num_train=len(ids.train),
                num_validation=len(ids.validation),
                num_overlong=ids.num_overlong,
                num_per_epoch=count,
            )
            for of, ids, count in zip(texts, encoded, train.counts, strict=True)
        ),
        train=train,
        validation=validation,
        test_rows=Chained([of.test_rows for of in texts]),
        sources=tuple(opened),
        held_out_paths=held_out_paths,
        leakage=report,
        num_trainable=num_trainable,
    )


def _named(task: Task, check: Callable[[], T]) -> T:
    """What `check` gives; a refusal names the task it is about."""
    try:
        return check()
    except InputError as error:
        if not task.name:
            raise
        raise type(error)(f"task {task.name!r}: {error}") from error


def _too_large(
    method: Method, settings: Any, outline: PreTrainedModel, num_trainable: int
) -> ConfigError:
    """The refusal of an adapter that is no smaller than its base, with the size that is."""
    most = outline.num_parameters()
    says = f"the adapter would have {num_trainable:,} parameters, the base has {most:,}"
    for key in ("rank", "num_virtual_tokens"):
        if isinstance(getattr(settings, key, None), int):
            one, two = (
                method.num_trainable(outline, dataclasses.replace(settings, **{key: size}))
                for size in (1, 2)
            )
            # Each further one has as many parameters as the second.
            if two > one and one < most:
                return ConfigError(
                    f"key 'method.{key}': {getattr(settings, key)} is too large: {says}; the "
                    f"largest that fits is {1 + (most - 1 - one) // (two - one)}"
                )
    return ConfigError(f"key 'method': {says}; train less of it")


def _num_embeddings(outline: PreTrainedModel) -> int:
    return int(cast(nn.Embedding, outline.get_input_embeddings()).weight.shape[0])


def _paths(value: Path | tuple[Path, ...]) -> tuple[Path, ...]:
    return value if isinstance(value, tuple) else (value,)
