"""JSON schemas of the files that make many runs of one: of a sweep, and of a comparison."""

from typing import Any

from pydantic import TypeAdapter

from trainer.compare.settings import KEY as COMPARE
from trainer.compare.settings import SAME_FOR_ALL
from trainer.config.compare import CompareConfig
from trainer.config_file import json_schema
from trainer.run_file import without_required
from trainer.sweep.space import FIXED, Range
from trainer.sweep.space import KEY as SWEEP


def sweep_schema() -> dict[str, Any]:
    """Of a configuration with a search space."""
    scalar = {"type": ["string", "number", "boolean", "null"]}
    values = {"type": "array", "items": scalar, "minItems": 1, "uniqueItems": True}
    space = {
        "type": "object",
        "description": "Key of the configuration, such as optimiser.learning_rate: what to try.",
        "minProperties": 1,
        "propertyNames": {"not": {"pattern": rf"^({'|'.join(FIXED)})(\.|$)"}},
        "additionalProperties": {"anyOf": [TypeAdapter(Range).json_schema(), values]},
    }
    return _with(json_schema(), SWEEP, space)


def compare_schema() -> dict[str, Any]:
    """Of a configuration with methods to compare."""
    schema = json_schema()
    parts: dict[str, Any] = schema["$defs"]
    own = without_required({k: v for k, v in schema.items() if k not in ("$defs", "title")})
    own["properties"] = {k: v for k, v in own["properties"].items() if k not in SAME_FOR_ALL}
    settings = TypeAdapter(CompareConfig).json_schema()
    settings["properties"]["methods"]["additionalProperties"] = own
    partial = {f"{name}Part": without_required(part) for name, part in parts.items()}
    schema["$defs"] = {**parts, **partial}
    # One rate for all would compare rates.
    one_rate = {
        "required": ["optimiser"],
        "properties": {"optimiser": {"required": ["learning_rate"]}},
    }
    return {**_with(schema, COMPARE, settings), "not": one_rate}


def _with(schema: dict[str, Any], key: str, value: dict[str, Any]) -> dict[str, Any]:
    """`schema` with one more key, which a file must have."""
    properties = {**schema["properties"], key: value}
    return {**schema, "properties": properties, "required": [*schema["required"], key]}
