"""Which modules a configuration targets, as PEFT decides it.

PEFT drops tensors of other modules without a word, so they are refused here.
"""

import re
from collections.abc import Iterable, Mapping, Set
from typing import Any

from server.adapters.peft_format import CONFIG, PREFIX, TENSORS
from server.errors import AdapterRefusedError

# PEFT takes the first number in a path, behind another part, as the layer's.
_LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")


def check_no_others(
    config: Mapping[str, Any], found: Iterable[str], along: Set[str] = frozenset()
) -> None:
    """Raises AdapterRefusedError if PEFT would not adapt one of the modules `found`, those that
    have tensors of the method's own. Modules `along` get theirs with another that is targeted.

    Expressions (`target_modules`, `exclude_modules` or `layers_pattern` as such) are not looked at.
    """
    targets = _names(config.get("target_modules"))
    excluded = _names(config.get("exclude_modules")) or frozenset()
    layers = _layers(config)
    for path in found:
        ends = _ends(path)
        if path in along or targets is None:
            key = ""
        elif not ends & targets:
            key = "target_modules"
        elif path in targets or layers is None or _layer(path) in layers:
            key = ""
        else:
            key = "layers_to_transform"
        key = "exclude_modules" if ends & excluded else key
        if key:
            raise AdapterRefusedError(
                f"{TENSORS}: holds tensors of {PREFIX + path!r}, which {CONFIG} leaves out by {key}"
            )


def _ends(path: str) -> set[str]:
    """The path, and what is left of it behind each of its dots."""
    ends, dot = {path}, path.find(".")
    while dot >= 0:
        ends.add(path[dot + 1 :])
        dot = path.find(".", dot + 1)
    return ends


def _names(value: object) -> frozenset[str] | None:
    """The names in a list; None where it is none, or an expression."""
    if not isinstance(value, list):
        return None
    return frozenset(name for name in value if isinstance(name, str))


def _layers(config: Mapping[str, Any]) -> frozenset[int] | None:
    """The layers that `layers_to_transform` names; None: all, or not to be told."""
    value = config.get("layers_to_transform")
    if value in (None, []):
        return None
    layers = value if isinstance(value, list) else [value]
    if not all(type(layer) is int for layer in layers):
        raise AdapterRefusedError(
            f"{CONFIG}: layers_to_transform must be a number, or a list of numbers"
        )
    return None if config.get("layers_pattern") else frozenset(layers)


def _layer(path: str) -> int | None:
    match = _LAYER.match(path)
    return None if match is None else int(match[1])
