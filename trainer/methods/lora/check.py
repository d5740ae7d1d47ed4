"""What of a LoRA configuration does not go with a base, said before its weights load."""

import re
from collections.abc import Iterable, Mapping, Sequence

from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from trainer.config import LoraConfig, TrainConfig
from trainer.errors import ConfigError
from trainer.methods.lora.attach import attach_outline
from trainer.methods.lora.modules import (
    ADAPTER,
    embeddings_of,
    layer_numbers,
    layers_of,
    linears_of,
    size_of,
)
from trainer.methods.lora.variants import DECOMPOSED, complete
from trainer.model import output_head

# As the server reads them: patterns that take long are not served.
_SERVED_PATTERN = re.compile(r"[\w.\-^$|\\\[\]*+]{1,200}")
_MAX_REPETITIONS = 2
# PEFT takes the first number in a path as the layer's.
_NUMBER = re.compile(r"\.(\d+)\.")


def check(config: TrainConfig, outline: PreTrainedModel) -> None:
    """Raises ConfigError naming key, value and remedy. `config` is resolved."""
    assert isinstance(config.method, LoraConfig)
    settings = complete(config.method)
    names = _adapted(outline, settings)
    _check_beside(outline, settings, config)
    if embeddings := embeddings_of(outline).keys() & set(names):
        _check_embeddings(settings, min(embeddings))
    _check_patterns(settings, names)
    layers = layers_of(attach_outline(outline, settings))
    _check_ranks(settings, layers)
    if settings.bias != "none":
        biased = [name for name, parameter in outline.named_parameters() if _is_bias(name)]
        adapted = [name for name in biased if name.rsplit(".", 1)[0] in layers]
        if not (biased if settings.bias == "all" else adapted):
            raise ConfigError(
                f"key 'method.bias': {settings.bias!r} trains nothing: the base has none "
                "such; use none, or method.lora_bias for new ones"
            )
    if settings.init == "loftq" and config.quantization == "none":
        raise ConfigError(
            "key 'method.init': 'loftq' makes up for quantization, and the base is not quantized; "
            "use quantization nf4 or int8"
        )


def _is_bias(name: str) -> bool:
    # As PEFT decides it.
    return "bias" in name


def _adapted(outline: PreTrainedModel, settings: LoraConfig) -> list[str]:
    """The modules that are adapted. Raises ConfigError for a target or layer that is none."""
    linears = linears_of(outline)
    names = [*linears, *embeddings_of(outline)]
    if settings.targets == "all-linear":
        head = output_head(outline)
        adapted = [name for name, module in linears.items() if module is not head]
    else:
        is_pattern = isinstance(settings.targets, str)
        wanted = (settings.targets,) if isinstance(settings.targets, str) else settings.targets
        for target in wanted:
            if not any(_matches(target, name, is_pattern) for name in names):
                raise ConfigError(
                    f"key 'method.targets': {target!r} names no linear layer of the base, and no "
                    f"embedding; there are {_endings(names)}"
                )
        adapted = [n for n in names if any(_matches(target, n, is_pattern) for target in wanted)]
    if settings.layers is None:
        return adapted
    numbers = {name: int(found[0]) for name in adapted if (found := _NUMBER.findall(name))}
    chosen = layer_numbers(outline, settings.layers)
    for given, index in zip(settings.layers, chosen, strict=True):
        if index not in numbers.values():
            raise ConfigError(
                f"key 'method.layers': the base has no layer {given} with what method.targets names"
            )
    if len(set(chosen)) < len(chosen):
        raise ConfigError("key 'method.layers': names a layer twice")
    return [name for name, number in numbers.items() if number in chosen]


def _matches(target: str, name: str, is_pattern: bool) -> bool:
    if not is_pattern:
        return name == target or name.endswith(f".{target}")
    try:
        return re.fullmatch(target, name) is not None
    except re.error as error:
        raise ConfigError(f"key 'method.targets': {target!r} is no regular expression") from error


def _endings(names: Iterable[str]) -> str:
    return ", ".join(sorted({name.rsplit(".", 1)[-1] for name in names}))


def _check_beside(outline: PreTrainedModel, settings: LoraConfig, config: TrainConfig) -> None:
    """What is trained of the base itself: modules, tokens, biases."""
    modules = dict(outline.named_modules())
    targets = settings.targets if isinstance(settings.targets, tuple) else ()
    for wanted in settings.modules_to_save:
        named = [name for name in modules if name and _matches(wanted, name, False)]
        if not named:
            raise ConfigError(
                f"key 'method.modules_to_save': {wanted!r} names no module of the base; there are "
                f"{_endings(name for name in modules if name and not name[-1].isdigit())}"
            )
        for name in named:
            if not list(modules[name].parameters()):
                raise ConfigError(f"key 'method.modules_to_save': {name} has nothing to train")
            for inner_name, inner in modules[name].named_modules():
                where = f"{name}.{inner_name}".rstrip(".")
                if config.quantization != "none" and _is_quantized(inner, outline):
                    raise ConfigError(
                        f"key 'method.modules_to_save': {where} is quantized, and whole numbers "
                        "have no gradient; leave it to method.targets, or use quantization none"
                    )
                if any(_matches(target, where, False) for target in targets):
                    raise ConfigError(
                        f"key 'method.modules_to_save': {where} is in method.targets too; name it "
                        "in one of them"
                    )
    num_tokens = outline.get_input_embeddings().get_parameter("weight").shape[0]
    tokens = settings.trainable_token_indices
    if outside := [token for token in tokens if token >= num_tokens]:
        raise ConfigError(
            f"key 'method.trainable_token_indices': {outside[0]} is outside the base's vocabulary "
            f"of {num_tokens}"
        )
    if len(set(tokens)) < len(tokens):
        raise ConfigError("key 'method.trainable_token_indices': give each token once")
    if tokens and (
        clash := [name for name in (*settings.modules_to_save, *targets) if "embed" in name]
    ):
        raise ConfigError(
            f"key 'method.trainable_token_indices': {clash[0]} trains the embeddings already; use "
            "one of them"
        )


def _is_quantized(module: nn.Module, outline: PreTrainedModel) -> bool:
    # transformers leaves the output head as it is.
    is_linear = module in linears_of(outline).values()
    return is_linear and module is not output_head(outline)


def _check_embeddings(settings: LoraConfig, name: str) -> None:
    """Embeddings have A at zero and B random, and no weights that PEFT would decompose."""
    reason = None
    if settings.init not in ("kaiming", "gaussian"):
        reason = f"init {settings.init!r} is for linear layers"
    elif settings.freeze_a:
        reason = "A starts at zero there, so with freeze_a nothing is trained"
    elif settings.learning_rate_ratio != 1:
        reason = "LoRA+ has no learning rate for them that is a multiple of the others'"
    elif settings.lora_bias:
        reason = "lora_bias is for linear layers"
    if reason is not None:
        raise ConfigError(f"key 'method.targets': {name} is an embedding: {reason}; leave it out")


def _check_patterns(settings: LoraConfig, names: Sequence[str]) -> None:
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(settings, key):
            repetitions = sum(pattern.count(sign) for sign in "*+")
            if not _SERVED_PATTERN.fullmatch(pattern) or repetitions > _MAX_REPETITIONS:
                raise ConfigError(
                    f"key 'method.{key}': the server does not serve the pattern {pattern!r}; write "
                    "ends of module names, such as q_proj"
                )
            try:
                matches = re.compile(rf"(.*\.)?({pattern})$")
            except re.error as error:
                raise ConfigError(
                    f"key 'method.{key}': {pattern!r} is no regular expression"
                ) from error
            if not any(matches.match(name) for name in names):
                raise ConfigError(
                    f"key 'method.{key}': {pattern!r} matches no adapted layer; there are "
                    f"{_endings(names)}"
                )


def _check_ranks(settings: LoraConfig, layers: Mapping[str, LoraLayer]) -> None:
    """Ranks that the initialisation can give."""
    init = settings.init
    if init not in DECOMPOSED and init != "orthogonal":
        return
    for name, layer in layers.items():
        rank, (outputs, inputs) = layer.r[ADAPTER], size_of(layer)
        size = min(outputs, inputs)
        if init == "orthogonal" and rank % 2:
            raise ConfigError(
                f"key 'method.rank': {rank} of {name} is odd; init 'orthogonal' halves it"
            )
        # EVA decomposes inputs, LoRA-GA takes two sets of directions.
        limit = {"eva": inputs, "lora_ga": size // 2}.get(str(init), size)
        if rank > limit:
            raise ConfigError(
                f"key 'method.rank': init {init!r} has at most {limit} directions for {name} "
                f"({outputs} x {inputs}), not {rank}; lower the rank"
            )
