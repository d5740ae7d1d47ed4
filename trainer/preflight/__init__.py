"""Everything that can refuse a run before the base's weights are loaded."""

from pathlib import Path

from trainer import data, model
from trainer.config import TrainConfig
from trainer.errors import ConfigError, DataError
from trainer.examples import InMemory
from trainer.methods import METHODS
from trainer.objectives import OBJECTIVES
from trainer.preflight.lengths import fit, max_length_of
from trainer.preflight.prepared import Prepared
from trainer.preflight.wording import choose_template
from understudy.artifact import ArtifactError, check_name

__all__ = ["Prepared", "choose_template", "prepare"]


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
    settings = method.bind(config.method, outline, tokenizer)
    num_trainable = method.num_trainable(outline, settings)
    if num_trainable >= outline.num_parameters() and not method.trains_base:
        raise ConfigError(
            f"key 'method': the adapter would have {num_trainable:,} parameters, the base has "
            f"{outline.num_parameters():,}; lower its rank or number of tokens"
        )

    train_paths = _paths(config.data.train)
    rows = data.read_rows(train_paths)
    chat = data.is_chat(rows, config.data.format)
    targets = objective.target_columns(config.data)
    template = choose_template(config, rows, tokenizer, chat, targets)
    examples = objective.read(rows, template, config.data, chat=chat)
    validation_paths: tuple[Path, ...] = ()
    if isinstance(config.data.validation, float | int):
        train, validation = data.split_by_hash(examples, config.data.validation, config.seed)
        if config.data.validation and not (train and validation):
            side = "training" if not train else "validation"
            raise DataError(
                f"data.validation {config.data.validation} of {len(examples)} rows leaves no "
                f"{side} rows; give a larger or smaller share, a file, or 0"
            )
    else:
        validation_paths = _paths(config.data.validation)
        train = examples
        rows = data.read_rows(validation_paths)
        validation = objective.read(rows, template, config.data, chat=chat)
    data.check_no_leak(train, validation)
    validation = data.draw(validation, config.data.max_validation_rows, config.seed)

    objective = objective.bound(train)
    encoded = objective.encode(tokenizer, train)
    fitting_train, num_long = fit(encoded, max_length, config)
    encoded = objective.encode(tokenizer, validation)
    fitting_validation, num_long_validation = fit(encoded, max_length, config)
    trained = InMemory(fitting_train)
    return Prepared(
        tokenizer=tokenizer,
        outline=outline,
        method=method.with_examples(settings, trained),
        template=template,
        objective=objective,
        train=trained,
        validation=InMemory(fitting_validation),
        train_paths=train_paths,
        validation_paths=validation_paths,
        num_overlong=num_long + num_long_validation,
        num_trainable=num_trainable,
    )


def _paths(value: Path | tuple[Path, ...]) -> tuple[Path, ...]:
    return value if isinstance(value, tuple) else (value,)
