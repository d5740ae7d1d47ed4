"""Reads a configuration file, with overrides, into frozen dataclasses or one clear error."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Tag, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from trainer.config import LoraConfig, TrainConfig
from trainer.config.not_offered import NOT_OFFERED
from trainer.errors import ConfigError
from trainer.writing import digest

# Pydantic puts the alternatives it tried into an error's location; the file has no such keys.
_UNKNOWN_KEY = ("unexpected_keyword_argument", "extra_forbidden")
_MISSING_KEY = ("missing", "missing_argument", "missing_keyword_only_argument")
# Of `loop`: how often it is saved and what is shown.
_ONLY_SHOWN = ("checkpoint_every", "samples", "tensorboard")
# Of `data`: where tokens are kept.
_ONLY_KEPT = ("stream", "cache")


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML's safe loader, refusing a key that is given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The mapping of `node`. Raises a YAML error at a repeated key."""
        keys: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # the loader refuses it
            if key_node.value in keys:
                raise yaml.constructor.ConstructorError(
                    problem=f"key {key_node.value!r} is given twice", problem_mark=node.start_mark
                )
            keys.add(key_node.value)
        return super().construct_mapping(node, deep)


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The configuration in a YAML file, with `key.sub=value` overrides applied over it.

    Raises ConfigError naming the file, the key, the value and the remedy.
    """
    data = read_yaml(path)
    for override in overrides:
        apply_override(data, override)
    return parse_config(data, str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    try:
        data = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Also of Python, for a date or a number that it cannot hold.
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must hold keys and values, such as `name: my-adapter`")
    return data


def apply_override(data: Any, override: str) -> None:
    """Sets one `key.sub=value` in the mapping `data`; the value is YAML. Raises ConfigError.

    A number names an item of a list: `jobs.0.name=first`.
    """
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {override!r}: expected key=value, such as optimiser.epochs=2")
    try:
        value = yaml.load(text, Loader=_UniqueKeyLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"--set {key}: {text[:80]!r} is not valid YAML") from error
    *parents, last = key.split(".")
    for parent in parents:
        inner: Any = data.setdefault(parent, {}) if isinstance(data, dict) else _item(data, parent)
        if not isinstance(inner, dict | list):
            raise ConfigError(f"--set {key}: {parent!r} holds a value, not keys")
        data = inner
    if not isinstance(data, dict):
        raise ConfigError(f"--set {key}: {last!r} is not a key; give one of its keys")
    data[last] = value


def _item(items: list[Any], position: str) -> Any:
    """The item of a list at `position`, counted from 0, or None."""
    return items[int(position)] if position.isdecimal() and int(position) < len(items) else None


def parse_config(data: Mapping[str, Any], where: str) -> TrainConfig:
    """The configuration in `data`. Raises ConfigError beginning with `where`."""
    for key, text in _texts(data):
        if "\0" in text or (not text.isascii() and _has_surrogate(text)):
            raise ConfigError(f"{where}: key {key!r}: {text[:80]!r} holds a character of no text")
    try:
        return TypeAdapter(TrainConfig).validate_python(_with_method(data))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        # An unknown key is the likely cause of a missing one.
        problems.sort(key=lambda problem: problem["type"] not in _UNKNOWN_KEY)
        raise ConfigError(f"{where}: {_explain(problems[0], data)}") from error


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts in nested mappings and lists, each with its key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{key}[{index}]")


def _has_surrogate(text: str) -> bool:
    """Whether it holds half a surrogate pair, which no file and no tokenizer takes."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _with_method(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """`data` with the default `method.type`, unless a key there belongs to another method."""
    method = data.get("method")
    if not isinstance(method, dict) or "type" in method:
        return data
    own = {field.name for field in dataclasses.fields(LoraConfig)}
    others = {
        field.name
        for cls in _dataclasses_in(typing.get_type_hints(TrainConfig)["method"])
        for field in dataclasses.fields(cls)
    }
    if (others - own) & method.keys():
        return data
    return {**data, "method": {"type": "lora", **method}}


def json_schema() -> dict[str, Any]:
    """JSON schema of the configuration."""
    return TypeAdapter(TrainConfig).json_schema()


def config_to_json(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON values; paths as text."""
    dumped: dict[str, Any] = TypeAdapter(TrainConfig).dump_python(config, mode="json")
    return dumped


def config_hash(config: TrainConfig) -> str:
    """sha256, in hex, of everything that decides the result: all but where it goes."""
    whole = config_to_json(config)
    content = {key: value for key, value in whole.items() if key not in ("output", "allow_memory")}
    content["loop"] = {k: v for k, v in content["loop"].items() if k not in _ONLY_SHOWN}
    content["data"] = {k: v for k, v in content["data"].items() if k not in _ONLY_KEPT}
    return digest(content)


def _explain(problem: ErrorDetails, data: Mapping[str, Any]) -> str:
    path, known = _resolve_location(problem["loc"], data)
    key = ".".join(path)
    if problem["type"] in _UNKNOWN_KEY:
        close = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"
        return f"key {key!r} is not known; {hint}"
    if problem["type"] in _MISSING_KEY:
        return f"key {key!r} is missing"
    if problem["type"] == "union_tag_invalid":
        given = problem["input"]
        name = str(given.get("type")).lower()
        if key == "method" and name in NOT_OFFERED:
            return f"key 'method.type': PEFT's {name!r} is not offered: {NOT_OFFERED[name]}"
        close = difflib.get_close_matches(name, _tags(key), n=1, cutoff=0.5)
        hint = f"known; did you mean {close[0]!r}?" if close else f"one of {', '.join(_tags(key))}"
        return f"key '{key}.type': {given.get('type')!r} is not {hint}"
    if problem["type"] == "union_tag_not_found":
        return f"key '{key}.type' is missing; use one of {', '.join(_tags(key))}"
    message = problem["msg"]
    return f"key {key!r}: {message[0].lower() + message[1:]}, got {str(problem['input'])[:80]!r}"


def _resolve_location(
    location: Iterable[int | str], data: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """The keys of an error's location as in the file, and the keys known beside the last."""
    path: list[str] = []
    known: list[str] = []
    annotation: Any = TrainConfig
    for part in location:
        if isinstance(part, int) and not path:
            path.append(str(part))
            continue
        if isinstance(part, int):
            path[-1] += f"[{part}]"
            annotation = _element(annotation)
            continue
        if chosen := [a for tag, a in _alternatives(annotation) if tag == part]:
            annotation = chosen[0]
            continue
        fields = {
            f.name: f.type for c in _dataclasses_in(annotation) for f in dataclasses.fields(c)
        }
        if not fields:
            break
        path.append(part)
        known = list(fields)
        annotation = fields.get(part)
    return path, known


def _alternatives(annotation: Any, tag: str | None = None) -> list[tuple[str | None, Any]]:
    """The members of a union, each with the tag that errors name it by; with several, several
    times."""
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *metadata = typing.get_args(annotation)
        tags = [str(m.tag) for m in metadata if isinstance(m, Tag)]
        return _alternatives(inner, tags[0] if tags else tag)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [found for arg in typing.get_args(annotation) for found in _alternatives(arg)]
    if tag is None and dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return [(own, annotation) for own in _tags_of(annotation)] or [(None, annotation)]
    return [(tag, annotation)]


def _element(annotation: Any) -> Any:
    """What a tuple among the members of `annotation` holds; None if there is none."""
    members = [member for _, member in _alternatives(annotation)]
    tuples = [member for member in members if typing.get_origin(member) is tuple]
    return typing.get_args(tuples[0])[0] if tuples else None


def _tags_of(cls: type) -> tuple[str, ...]:
    return typing.get_args(cls.__annotations__.get("type"))


def _tags(key: str) -> list[str]:
    annotation = typing.get_type_hints(TrainConfig)[key]
    return sorted(tag for cls in _dataclasses_in(annotation) for tag in _tags_of(cls))


def _dataclasses_in(annotation: Any) -> list[type]:
    if typing.get_origin(annotation) is typing.Annotated:
        return _dataclasses_in(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [cls for arg in typing.get_args(annotation) for cls in _dataclasses_in(arg)]
    return [annotation] if dataclasses.is_dataclass(annotation) else []  # type: ignore[list-item]
