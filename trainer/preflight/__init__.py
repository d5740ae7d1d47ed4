"""Everything that can refuse a run before the base's weights are loaded."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from trainer import data, model
from trainer.config import TaskConfig, TrainConfig
from trainer.config.data import TrainEntries
from trainer.data import Example
from trainer.errors import ConfigError, DataError
from trainer.examples import InMemory
from trainer.methods import METHODS
from trainer.objectives import OBJECTIVES, Objective
from trainer.preflight.leaks import look_for_leaks, without
from trainer.preflight.lengths import fit, max_length_of
from trainer.preflight.loop import check_loop
from trainer.preflight.prepared import Prepared
from trainer.preflight.split import Split, draw, split_by_hash
from trainer.preflight.wording import choose_wordings
from trainer.templates import Wordings
from understudy.artifact import ArtifactError, check_name

__all__ = ["Prepared", "choose_wordings", "prepare"]


def prepare(config: TrainConfig) -> Prepared:
    """Reads and checks everything but the weights; `config` is resolved.

    Raises ConfigError, DataError or BaseModelError.
    """
    try:
        check_name(config.name)
    except ArtifactError as error:
        raise ConfigError(f"key 'name': {error}") from error
    model.check_directory(config.base)
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
        raise ConfigError(
            f"key 'method': the adapter would have {num_trainable:,} parameters, the base has "
            f"{outline.num_parameters():,}; lower its rank or number of tokens"
        )

    train_sources = _sources(config.data.train)
    rows = data.read_rows(train_sources)
    chat = data.is_chat(rows, config.data.format)
    targets = objective.target_columns(config.data)
    wordings = choose_wordings(config, rows, tokenizer, chat, targets)
    split = _split(config, rows, wordings, objective, chat)
    held_out_paths = _paths(config.data.held_out) if config.data.held_out else ()
    report = look_for_leaks(split, held_out_paths, config.data.on_leak)
    split = without(split, report.dropped)
    validation = draw(split.validation, config.data.max_validation_rows, config.seed)
    worded = wordings.reword(split.train, config.seed)
    train = [example for example, _ in worded]
    name_of = {example.where: name for example, name in worded}

    objective = objective.bound(train)
    num_trainable += len(objective.labels) * model.head_width(outline)
    encoded = objective.encode(tokenizer, train)
    fitting_train, num_long = fit(encoded, max_length, config)
    encoded = objective.encode(tokenizer, validation)
    fitting_validation, num_long_validation = fit(encoded, max_length, config)
    trained = InMemory(fitting_train)
    return Prepared(
        tokenizer=tokenizer,
        outline=outline,
        method=method.with_examples(settings, trained, tokenizer),
        objective=objective,
        wordings=wordings,
        num_by_wording=Counter(name_of[example.where] for example in fitting_train),
        train=trained,
        validation=InMemory(fitting_validation),
        test_rows=_test_rows(rows, split.test),
        sources=train_sources + _sources(config.data.validation) + _sources(config.data.test),
        held_out_paths=held_out_paths,
        leakage=report,
        num_overlong=num_long + num_long_validation,
        num_trainable=num_trainable,
    )


def _split(
    config: TrainConfig,
    rows: Sequence[data.Row],
    wordings: Wordings,
    objective: Objective,
    chat: bool,
) -> Split:
    settings = config.data
    shares = [
        float(held) if isinstance(held := getattr(settings, part), float | int) else 0.0
        for part in ("validation", "test")
    ]
    if sum(shares) >= 1:
        raise ConfigError(
            f"keys 'data.validation' and 'data.test': {shares[0]} and {shares[1]} leave nothing "
            "to train on; together they must be less than 1"
        )

    def read_examples(rows: Sequence[data.Row]) -> list[Example]:
        return _grouped(
            objective.read(rows, wordings.serving, settings, chat=chat), rows, settings.group_key
        )

    examples = read_examples(rows)
    split = split_by_hash(examples, shares[0], shares[1], config.seed)
    for part, share in (("validation", shares[0]), ("test", shares[1])):
        if share and not (split.train and getattr(split, part)):
            side = "training" if not split.train else part
            raise DataError(
                f"data.{part} {share} of {len(examples)} rows leaves no {side} rows; give a larger "
                "or smaller share, a file, or 0"
            )
    read = {
        part: read_examples(data.read_rows(sources))
        for part in ("validation", "test")
        if (sources := _sources(getattr(settings, part)))
    }
    return Split(
        split.train, read.get("validation", split.validation), read.get("test", split.test)
    )


def _grouped(
    examples: list[Example], rows: Sequence[data.Row], group_key: str | None
) -> list[Example]:
    """The examples with what their rows hold in the column `group_key`."""
    if group_key is None:
        return examples
    groups = {row.where: data.column_text(row, group_key) for row in rows}
    return [replace(example, group=groups[example.where]) for example in examples]


def _test_rows(rows: Sequence[data.Row], test: Sequence[Example]) -> list[data.Row]:
    """The rows behind the test examples that were held out of the training files."""
    kept = {example.where for example in test}
    return [row for row in rows if row.where in kept]


def _sources(value: float | TrainEntries) -> tuple[data.Source, ...]:
    """The sources of a part that is given by files or data sets; none for a share."""
    if isinstance(value, float | int):
        return ()
    sources = []
    for entry in value:
        if isinstance(entry, TaskConfig):
            raise ConfigError("key 'data.train': tasks cannot be mixed; give files or data sets")
        sources.append(data.open_source(entry))
    return tuple(sources)


def _paths(value: Path | tuple[Path, ...]) -> tuple[Path, ...]:
    return value if isinstance(value, tuple) else (value,)
