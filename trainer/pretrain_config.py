"""The pretraining recipe: frozen dataclasses, checked once when the file is read."""

import difflib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from trainer.config_file import read_yaml
from trainer.errors import ConfigError

UNKNOWN_KEY = "unexpected_keyword_argument"
STRICT = ConfigDict(extra="forbid")
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]


@dataclass(frozen=True, config=STRICT)
class SourceConfig:
    """One `<name>.jsonl.gz` of the corpus folder. `weight` is its part of the tokens drawn."""

    name: str
    weight: PositiveFloat
    max_documents: Positive | None = None


@dataclass(frozen=True, config=STRICT)
class GeneratedConfig:
    """Text from the factory `package.module:function`, called with `(seed, num_documents)`."""

    name: str
    factory: str
    weight: PositiveFloat
    num_documents: Positive
    seed: int


@dataclass(frozen=True, config=STRICT)
class LateConfig:
    """Generated text that takes the place of a `share` of the chunks from step `from_step` on.

    The tokenizer is trained without it.
    """

    factory: str
    share: Annotated[float, Field(gt=0.0, lt=1.0)]
    from_step: Positive
    num_documents: Positive
    seed: int


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """Sources and how they are held out. Byte limits keep preparation and validation short."""

    sources: tuple[SourceConfig, ...]
    generated: tuple[GeneratedConfig, ...] = ()
    late: LateConfig | None = None
    validation_share: Share = 0.02
    validation_bytes_per_source: Positive = 60_000
    tokenizer_bytes_per_source: Positive = 3_000_000


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """Shape of the Llama model. Widths are multiples of 64, the NF4 block size.

    `copying_heads`: start with the attention circuits of `pretrain_init` in place.
    """

    vocab_size: Positive
    hidden_size: Annotated[int, Field(gt=0, multiple_of=64)]
    intermediate_size: Annotated[int, Field(gt=0, multiple_of=64)]
    num_layers: Positive
    num_heads: Positive
    num_kv_heads: Positive
    context: Annotated[int, Field(gt=0, multiple_of=2)] = 1024
    rope_theta: PositiveFloat = 10_000.0
    copying_heads: bool = False


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    """The run. It ends at `max_steps` or `max_minutes` of training, whichever comes first.

    Learning rate: linear warmup, constant, then linear to zero over the last `decay_share` of
    the run, measured in steps or in minutes, whichever is further. `long_every`: every how many
    steps the rows have the full context; the other steps use rows of half of it. `optimizer`:
    with `muon`, the matrices of the layers are stepped by Muon (scaled to AdamW's step size) and
    the rest by AdamW. `stop_at`: end after this step, with the learning rate where it is then.
    """

    learning_rate: PositiveFloat
    max_steps: Positive
    max_minutes: PositiveFloat | None = None
    stop_at: Positive | None = None
    chunks_per_step: Positive = 4
    long_every: Positive = 6
    warmup_steps: Positive = 200
    decay_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.6
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.1
    beta2: Share = 0.95
    max_grad_norm: PositiveFloat = 1.0
    optimizer: Annotated[str, Field(pattern="^(adamw|muon)$")] = "adamw"
    precision: Annotated[str, Field(pattern="^(bf16|fp32)$")] = "bf16"
    compile: bool = True
    num_threads: Positive = 2
    log_every: Positive = 10
    validate_every: Positive = 400
    checkpoint_minutes: PositiveFloat = 3.0


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """Everything that decides the weights, except the corpus folder's place."""

    seed: int
    model: ModelConfig
    data: DataConfig
    train: TrainConfig


def valid_keys(cls: Any, path: tuple[int | str, ...]) -> list[str]:
    """Field names of the dataclass found by walking `path` from `cls`."""
    for step in path:
        if isinstance(step, int):
            continue
        (kind,) = [field.type for field in fields(cls) if field.name == step]
        while not is_dataclass(kind):
            (kind, *_) = [arg for arg in get_args(kind) if arg is not type(None)]
        cls = kind
    return [field.name for field in fields(cls)]


def read_recipe(path: Path) -> Recipe:
    """Reads and checks a recipe.

    Raises:
        ConfigError: naming the file and the first wrong key; for an unknown one the nearest.
    """
    try:
        return TypeAdapter(Recipe).validate_python(read_yaml(path))
    except ValidationError as error:
        # An unknown key is the likely cause of a missing one, so it is named first.
        (first, *_) = sorted(error.errors(), key=lambda found: found["type"] != UNKNOWN_KEY)
        where = ".".join(str(step) for step in first["loc"])
        if first["type"] == "missing":
            raise ConfigError(f"{path}: key {where!r} is missing") from error
        if first["type"] != UNKNOWN_KEY:
            raise ConfigError(f"{path}: {where}: {first['msg']}, got {first['input']!r}") from error
        known = valid_keys(Recipe, first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.0)
        raise ConfigError(
            f"{path}: unknown key {where!r}; the nearest valid key is {near[0]!r}"
        ) from error
