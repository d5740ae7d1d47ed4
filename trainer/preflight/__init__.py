"""Everything that can refuse a run before the base's weights are loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer import data, model
from trainer.config import PromptTuningConfig, TrainConfig
from trainer.errors import ConfigError, DataError
from trainer.methods import METHODS
from trainer.templates import CHAT, bind_chat_template, template_by_name
from trainer.tokens import Encoded, encode
from understudy.artifact import ArtifactError, check_name
from understudy.prompt import PromptError, PromptTemplate


@dataclass(frozen=True)
class Prepared:
    """A run's inputs, checked."""

    tokenizer: PreTrainedTokenizerBase
    outline: PreTrainedModel
    """The base without weights, on the `meta` device."""
    template: PromptTemplate
    train: list[Encoded]
    validation: list[Encoded]
    train_paths: tuple[Path, ...]
    validation_paths: tuple[Path, ...]
    """Empty if validation is a share of the training files."""
    num_overlong: int
    """Examples left out for their length."""
    num_trainable: int
    """Parameters of the adapter."""


def prepare(config: TrainConfig) -> Prepared:
    """Reads and checks everything but the weights; `config` is resolved.

    Raises ConfigError, DataError or BaseModelError.
    """
    try:
        check_name(config.name)
    except ArtifactError as error:
        raise ConfigError(f"key 'name': {error}") from error
    model.check_directory(config.base)
    outline = model.load_outline(config.base)
    model.check_shapes(config.base, outline)
    max_length = _max_length(config, outline)
    num_trainable = METHODS[config.method.type].num_trainable(outline, config.method)
    if num_trainable >= outline.num_parameters():
        raise ConfigError(
            f"key 'method': the adapter would have {num_trainable:,} parameters, the base has "
            f"{outline.num_parameters():,}; lower its rank or number of tokens"
        )
    tokenizer = model.load_tokenizer(config.base)

    train_paths = _paths(config.data.train)
    rows = data.read_rows(train_paths)
    chat = data.is_chat(rows, config.data.format)
    template = choose_template(config, rows, tokenizer, chat)
    examples = data.to_examples(
        rows, template, chat=chat, completion_column=config.data.completion_column
    )
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
        validation = data.to_examples(
            data.read_rows(validation_paths),
            template,
            chat=chat,
            completion_column=config.data.completion_column,
        )
    data.check_no_leak(train, validation)
    validation = data.draw(validation, config.data.max_validation_rows, config.seed)

    fitting_train, num_long = _fit(encode(tokenizer, train), max_length, config)
    fitting_validation, num_long_validation = _fit(
        encode(tokenizer, validation), max_length, config
    )
    return Prepared(
        tokenizer=tokenizer,
        outline=outline,
        template=template,
        train=fitting_train,
        validation=fitting_validation,
        train_paths=train_paths,
        validation_paths=validation_paths,
        num_overlong=num_long + num_long_validation,
        num_trainable=num_trainable,
    )


def choose_template(
    config: TrainConfig,
    rows: Sequence[data.Row],
    tokenizer: PreTrainedTokenizerBase,
    chat: bool,
) -> PromptTemplate:
    """The run's prompt template: given, named, the tokenizer's for chat, or the bare column."""
    settings = config.data
    text = settings.template
    if text is None and settings.template_name is not None:
        text = template_by_name(settings.template_name)
    if text is None:
        if not chat:
            text = data.default_template(rows, settings.completion_column)
        elif isinstance(tokenizer.chat_template, str):
            text = bind_chat_template(
                tokenizer.chat_template,
                bos_token=tokenizer.bos_token or "",
                eos_token=tokenizer.eos_token,
                adds_bos=tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id,
            )
        else:
            text = CHAT
    try:
        template = PromptTemplate(text)
    except PromptError as error:
        raise ConfigError(f"key 'data.template': {error}") from error
    if chat and template.variables != {"messages"}:
        raise ConfigError(
            "key 'data.template': rows hold messages, so the template must read 'messages' and "
            f"nothing else; it reads {', '.join(sorted(template.variables))}"
        )
    if not chat and settings.completion_column in template.variables:
        raise ConfigError(
            f"key 'data.template': it reads {settings.completion_column!r}, the text to learn"
        )
    return template


def _fit(
    encoded: list[Encoded], max_length: int | None, config: TrainConfig
) -> tuple[list[Encoded], int]:
    """The examples of at most `max_length` tokens, and how many are longer."""
    for example in encoded:
        if not example.prompt_ids:
            raise DataError(f"{example.where}: the prompt has no tokens; nothing predicts from it")
    if max_length is None:
        return encoded, 0
    fitting = [example for example in encoded if example.num_tokens <= max_length]
    num_long = len(encoded) - len(fitting)
    if num_long > config.data.max_overlong_share * len(encoded):
        longest = max(encoded, key=lambda example: example.num_tokens)
        raise DataError(
            f"{num_long} of {len(encoded)} examples are longer than {max_length} tokens (longest: "
            f"{longest.where} with {longest.num_tokens}), more than data.max_overlong_share "
            f"{config.data.max_overlong_share}; raise data.max_length, or shorten them"
        )
    return fitting, num_long


def _max_length(config: TrainConfig, outline: PreTrainedModel) -> int | None:
    method = config.method
    num_virtual = method.num_virtual_tokens if isinstance(method, PromptTuningConfig) else 0
    context = model.context_length(outline.config)
    room = None if context is None else context - num_virtual
    if room is not None and room < 2:
        raise ConfigError(
            f"key 'method.num_virtual_tokens': {num_virtual} leave no room in the base's context "
            f"of {context} tokens"
        )
    wanted = config.data.max_length
    if wanted is not None and room is not None and wanted > room:
        extra = f" less {num_virtual} virtual tokens" if num_virtual else ""
        raise ConfigError(
            f"key 'data.max_length': {wanted} is more than the base's context of {context} tokens"
            f"{extra}"
        )
    return wanted or room


def _paths(value: Path | tuple[Path, ...]) -> tuple[Path, ...]:
    return value if isinstance(value, tuple) else (value,)
