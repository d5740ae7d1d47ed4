"""The published variants of LoRA: what each fixes, and the values that it was published with."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.config import LoraConfig
from trainer.errors import ConfigError


def _twice(rank: int) -> int:
    return 2 * rank


def _equal(rank: int) -> int:
    return rank


def _half(rank: int) -> int:
    return max(1, rank // 2)


@dataclass(frozen=True)
class Variant:
    """A value of `method.type`."""

    learning_rate: float
    alpha: Callable[[int], int] = _twice
    """Of the rank."""
    fixes: Mapping[str, Any] = field(default_factory=dict)
    """Settings that make it what it is."""


# Learning rates differ by variant far more than the best results do (arXiv 2602.04998): a
# comparison at one rate for all compares the rates.
#
# QLoRA (arXiv 2305.14314), table 9, for models up to 13B. LoRA's best rate hardly depends on the
# model's size (Schulman et al., "LoRA Without Regret", 2025). Alpha there: twice the rank.
_LORA = 2e-4

VARIANTS: dict[str, Variant] = {
    "lora": Variant(_LORA),
    "rslora": Variant(_LORA, fixes={"use_rslora": True}),
    # PEFT's QDoRA example, alpha twice the rank.
    "dora": Variant(_LORA, fixes={"use_dora": True}),
    # Ratio: arXiv 2402.12354, and PEFT's guide. The rate is A's: half of LoRA's, as the
    # documentation of PEFT's create_loraplus_optimizer advises.
    "lora_plus": Variant(_LORA / 2, fixes={"learning_rate_ratio": 16.0}),
    # PEFT's example trains with 7e-5 by an optimiser of its own, which rescales B's gradient. Ours
    # is AdamW, as in the paper, whose steps do not depend on the gradient's scale.
    "lora_fa": Variant(_LORA, fixes={"freeze_a": True}),
    # The rates and alphas of PEFT's example for each, from here to LoftQ. PiSSA's and CorDA's steps
    # move factors as large as the base's own weights: their rate is that of full fine-tuning.
    "pissa": Variant(2e-5, _equal, {"init": "pissa"}),
    "olora": Variant(3e-4, _half, {"init": "olora"}),
    "corda": Variant(2e-5, _equal, {"init": "corda"}),
    "lora_ga": Variant(3e-5, _twice, {"init": "lora_ga"}),
    "eva": Variant(5e-4, lambda rank: 1, {"init": "eva"}),
    "loftq": Variant(1e-4, _equal, {"init": "loftq"}),
    # PEFT's example names alpha alone.
    "mica": Variant(_LORA, _equal, {"init": "mica"}),
}

SUBTRACTED = ("pissa", "olora", "corda", "lora_ga")
"""Initialisations that are taken off the base: the update starts at zero by subtraction."""
DECOMPOSED = (*SUBTRACTED, "eva", "loftq", "mica")
"""Initialisations that come from a decomposition of a linear's weight, gradient or inputs."""
FROM_EXAMPLES = ("corda", "lora_ga", "eva")
"""Initialisations that look at training examples."""

_PLAIN: dict[str, Any] = {
    "use_rslora": False,
    "use_dora": False,
    "learning_rate_ratio": 1.0,
    "freeze_a": False,
    "init": "kaiming",
}
_DORA_INITS = ("kaiming", "gaussian", "orthogonal", "eva")


def complete(settings: LoraConfig) -> LoraConfig:
    """`settings` without nulls that its type decides. Raises ConfigError if they contradict its
    type or each other."""
    variant = VARIANTS[settings.type]
    values: dict[str, Any] = {"alpha": settings.alpha or variant.alpha(settings.rank)}
    for key, plain in _PLAIN.items():
        given, fixed = getattr(settings, key), variant.fixes.get(key)
        if given is not None and fixed is not None and given != fixed:
            if key != "learning_rate_ratio":
                raise ConfigError(
                    f"key 'method.{key}': {_spell(given)} contradicts `type: {settings.type}`, "
                    f"which is LoRA with `{key}: {_spell(fixed)}`; use `type: lora`"
                )
            fixed = given
        values[key] = next(value for value in (given, fixed, plain) if value is not None)
    completed = dataclasses.replace(settings, **values)
    _check_together(completed)
    return completed


def _check_together(settings: LoraConfig) -> None:
    """Raises ConfigError for settings that exclude each other."""
    init = settings.init
    if settings.use_dora and init not in _DORA_INITS:
        raise ConfigError(
            f"key 'method.init': {init!r} does not go with DoRA, whose magnitudes are those of the "
            f"base; use one of {', '.join(_DORA_INITS)}"
        )
    if settings.lora_bias and (settings.use_dora or init != "kaiming"):
        other = "DoRA" if settings.use_dora else f"init {init!r}"
        raise ConfigError(
            f"key 'method.lora_bias': does not go with {other}; leave one of them out"
        )
    if settings.freeze_a and init == "mica":
        raise ConfigError(
            "key 'method.freeze_a': MiCA trains A and keeps B; with both kept nothing is trained"
        )
    if settings.layers is not None:
        if not settings.layers:
            raise ConfigError("key 'method.layers': give at least one layer")
        if isinstance(settings.targets, str) and settings.targets != "all-linear":
            raise ConfigError(
                f"key 'method.layers': not with the regular expression {settings.targets!r} in "
                "method.targets, which can name layers itself"
            )
    elif settings.layers_pattern is not None:
        raise ConfigError("key 'method.layers_pattern': give it with method.layers, and only then")
    if not settings.targets:
        raise ConfigError("key 'method.targets': names nothing; use all-linear or layer names")


def _spell(value: object) -> str:
    """As in a configuration file."""
    return str(value).lower() if isinstance(value, bool) else str(value)
