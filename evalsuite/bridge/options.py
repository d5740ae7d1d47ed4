"""lm_eval's generation arguments as ours. Nothing is left out in silence."""

from collections.abc import Mapping
from typing import Any

from evalsuite.errors import InputError, nearest
from understudy import SamplingParams, StoppingParams

DEFAULT_MAX_TOKENS = 256
"""lm_eval's."""
# In this order, where several are given; the names of lm_eval, transformers and OpenAI.
_MAX_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_COUNTS = ("top_k", "seed")
_NUMBERS = ("top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty")
_NAMES = ("until", "do_sample", "temperature", "min_tokens", *_MAX_TOKENS, *_COUNTS, *_NUMBERS)


def read_options(arguments: Mapping[str, Any]) -> tuple[SamplingParams, StoppingParams]:
    """Sampling and stopping of a generation. Raises InputError naming the argument.

    Greedy unless `do_sample` is true, or absent beside a `temperature` above 0; sampled without
    a `temperature` it is 1. At most 256 tokens unless a limit is given.
    """
    for name, value in arguments.items():
        if name not in _NAMES and (name, value) != ("num_beams", 1):
            raise InputError(f"--gen_kwargs: unknown '{name}={value}'; {nearest(name, _NAMES)}")
    given = {name: value for name, value in arguments.items() if value is not None}
    temperature = _number("temperature", given.get("temperature", 0.0))
    sampled = given.get("do_sample", temperature > 0)
    if sampled and "temperature" in given and not temperature:
        raise InputError("--gen_kwargs: do_sample=True needs a temperature above 0")
    sampling: dict[str, Any] = {}
    for name in _COUNTS:
        if name in given:
            sampling[name] = _count(name, given[name])
    for name in _NUMBERS:
        if name in given:
            sampling[name] = _number(name, given[name])
    if sampled:
        sampling["temperature"] = temperature or 1.0
    limits = [_count(name, given[name]) for name in _MAX_TOKENS if name in given]
    stopping = StoppingParams(
        max_tokens=limits[0] if limits else DEFAULT_MAX_TOKENS,
        min_tokens=_count("min_tokens", given["min_tokens"]) if "min_tokens" in given else None,
        stop=_stop(given.get("until", ())),
    )
    return SamplingParams(**sampling), stopping


def _stop(until: Any) -> tuple[str, ...]:
    parts = [until] if isinstance(until, str) else until
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise InputError(f"--gen_kwargs: until={until!r} is neither a text nor a list of texts")
    # lm_eval takes "" for none.
    return tuple(part for part in parts if part)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"--gen_kwargs: {name}={value!r} is not a number") from error


def _count(name: str, value: Any) -> int:
    number = _number(name, value)
    if not number.is_integer() or number < 0:
        raise InputError(f"--gen_kwargs: {name}={value!r} is not a whole number of at least 0")
    return int(number)
