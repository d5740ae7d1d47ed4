"""Which modules a configuration targets, as PEFT decides it.

PEFT drops tensors of other modules without a word, so they are refused here; so are modules that
are targeted and have none.
"""

import re
from collections.abc import Callable, Collection, Mapping, Set
from typing import Any

from server.adapters.patterns import compile_pattern
from server.adapters.peft_format import CONFIG, PREFIX, TENSORS
from server.errors import AdapterRefusedError
from understudy.artifact import shorten

_Test = Callable[[str], bool]

_ALL_LINEAR = "all-linear"
_LAYERS = "layers_to_transform"
# PEFT takes the first number in a path, behind another part, as the layer's.
_LAYER = re.compile(r".*?\.[^.]*\.(?P<idx>\d+)\.")
# The same behind what layers_pattern says.
_LAYER_FORM = r"(?:^|.*?\.){}\.(?P<idx>\d+)\."


def check_targets(
    config: Mapping[str, Any],
    found: Set[str],
    paths: Collection[str],
    head: str = "",
    along: Set[str] = frozenset(),
) -> None:
    """Raises AdapterRefusedError unless PEFT would adapt just the modules `found`, those that have
    tensors of the method's own, of `paths`, all that may be targeted.

    `head` is the base's output head, which `all-linear` leaves out. Modules `along` get theirs with
    another that is targeted. Expressions are served as far as `patterns` says.
    """
    targets = config.get("target_modules")
    left_out = _left_out_by(config, head)
    narrowed = any(config.get(key) not in (None, [], "") for key in (_LAYERS, "exclude_modules"))
    if isinstance(targets, list) and not narrowed:
        ends = {end for path in paths for end in _ends(path)}
        unknown = next((name for name in targets if name not in ends), None)
        if unknown is not None:
            raise AdapterRefusedError(
                f"{CONFIG}: target module {shorten(unknown)}: the base has no such module"
            )
    if targets is not None:
        saved = _test(config, "modules_to_save")
        for path in paths:
            if path not in found and not left_out(path) and not saved(path):
                raise AdapterRefusedError(
                    f"{CONFIG}: target module {shorten(_target_of(targets, path))}: {TENSORS} "
                    f"lacks {path!r}"
                )
    for path in found:
        key = left_out(path)
        if key and (path not in along or key == "exclude_modules"):
            raise AdapterRefusedError(
                f"{TENSORS}: holds tensors of {PREFIX + path!r}, which {CONFIG} leaves out by {key}"
            )


def _left_out_by(config: Mapping[str, Any], head: str) -> Callable[[str], str]:
    """The key by which a module of a path is left out; empty where it is adapted."""
    targets = config.get("target_modules")
    layers, layer_of = _layers(config), _layer_of(config)
    excluded = _test(config, "exclude_modules")
    if isinstance(targets, str) and layers is not None:
        raise AdapterRefusedError(
            f"{CONFIG}: {_LAYERS} is served where target_modules is a list; write module names"
        )
    all_linear = isinstance(targets, str) and targets.lower() == _ALL_LINEAR
    targeted = (lambda path: path != head) if all_linear else _test(config, "target_modules")

    def left_out(path: str) -> str:
        if excluded(path):
            return "exclude_modules"
        if targets is None:
            # PEFT's own choice for the architecture.
            return ""
        if not targeted(path):
            return "target_modules"
        # What is named in full is adapted in any layer.
        in_layer = layers is None or path in targets or layer_of(path) in layers
        return "" if in_layer else _LAYERS

    return left_out


def _test(config: Mapping[str, Any], key: str) -> _Test:
    """Whether `key` names a module, by an end of its path, or matches all of it."""
    value = config.get(key)
    if isinstance(value, str) and value:
        pattern = compile_pattern(key, value)
        return lambda path: pattern.fullmatch(path) is not None
    listed = [] if value in (None, "") else value
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise AdapterRefusedError(f"{CONFIG}: {key} must be a list of names, or an expression")
    names = frozenset(listed)
    return lambda path: not names.isdisjoint(_ends(path))


def _ends(path: str) -> set[str]:
    """The path, and what is left of it behind each of its dots."""
    ends, dot = {path}, path.find(".")
    while dot >= 0:
        ends.add(path[dot + 1 :])
        dot = path.find(".", dot + 1)
    return ends


def _target_of(targets: Any, path: str) -> str:
    """What of `target_modules` targets a module."""
    ends = _ends(path)
    return targets if isinstance(targets, str) else next(name for name in targets if name in ends)


def _layers(config: Mapping[str, Any]) -> frozenset[int] | None:
    """The layers that `layers_to_transform` names; None: all."""
    value = config.get(_LAYERS)
    if value in (None, []):
        return None
    layers = value if isinstance(value, list) else [value]
    if not all(type(layer) is int for layer in layers):
        raise AdapterRefusedError(f"{CONFIG}: {_LAYERS} must be a number, or a list of numbers")
    return frozenset(layers)


def _layer_of(config: Mapping[str, Any]) -> Callable[[str], int | None]:
    """Which layer a module of a path is in, by `layers_pattern`."""
    value = config.get("layers_pattern") or []
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
        raise AdapterRefusedError(f"{CONFIG}: layers_pattern must be expressions")
    forms = [compile_pattern("layers_pattern", p, _LAYER_FORM) for p in patterns] or [_LAYER]

    def layer(path: str) -> int | None:
        match = next(filter(None, (form.match(path) for form in forms)), None)
        number = match and match["idx"]
        return int(number) if number else None

    return layer
