"""The public names of the client, and that its dataclasses keep up with the wire."""

import ast
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import understudy
from understudy import errors, types
from understudy.v1 import adapter_service_pb2 as adapter_pb
from understudy.v1 import generation_service_pb2 as generation_pb
from understudy.v1 import types_pb2 as types_pb

ERRORS = {
    name
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.UnderstudyError)
}


def test_all_resolves() -> None:
    exported = understudy.__all__
    assert len(set(exported)) == len(exported)
    assert all(hasattr(understudy, name) for name in exported)


def test_every_public_name_is_exported() -> None:
    """What `__init__` imports it exports, and no error or type is left out."""
    tree = ast.parse(Path(understudy.__file__).read_text(encoding="utf-8"))
    imported = {
        alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == set(understudy.__all__)
    assert imported >= ERRORS
    public_types = {
        node.name
        for path in Path(types.__file__).parent.glob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    assert public_types
    assert imported >= public_types | set(types.__all__)


def test_every_error_is_drawn_in_the_docstring() -> None:
    assert [name for name in ERRORS if name not in (errors.__doc__ or "")] == []


@pytest.mark.parametrize(
    ("dataclass", "message"),
    [
        (types.SamplingParams, types_pb.SamplingParams),
        (types.StoppingParams, types_pb.StoppingParams),
        (types.OutputOptions, types_pb.OutputOptions),
        (types.StructuredOutput, types_pb.StructuredOutput),
        (types.WeightedAdapter, types_pb.WeightedAdapter),
        (types.GenerateRequest, generation_pb.GenerateRequest),
        (types.GenerateResult, generation_pb.GenerateResponse),
        (types.Generation, generation_pb.Generation),
        (types.StreamStarted, generation_pb.StreamStarted),
        (types.StreamDelta, generation_pb.StreamDelta),
        (types.StreamFinished, generation_pb.StreamFinished),
        (types.TokenLogprob, types_pb.TokenLogprob),
        (types.TopLogprob, types_pb.TopLogprob),
        (types.Usage, types_pb.Usage),
        (types.ScoreResult, generation_pb.ScoreResponse),
        (types.ContinuationScore, generation_pb.ContinuationScore),
        (types.ClassifyResult, generation_pb.ClassifyResponse),
        (types.LabelScore, generation_pb.LabelScore),
        (types.TokenizeResult, generation_pb.TokenizeResponse),
        (types.ModelInfo, generation_pb.GetModelInfoResponse),
        (types.AdapterInfo, types_pb.Adapter),
        (types.AdapterRef, types_pb.AdapterRef),
        (types.AdapterEvent, adapter_pb.WatchAdaptersResponse),
        (types.LoadResult, adapter_pb.LoadAdapterResponse),
    ],
)
def test_dataclass_has_the_fields_of_its_message(dataclass: type, message: type) -> None:
    assert {f.name for f in fields(dataclass)} == {f.name for f in message.DESCRIPTOR.fields}


@pytest.mark.parametrize(
    ("enum", "wire"),
    [
        (types.FinishReason, types_pb.FinishReason),
        (types.Tier, types_pb.Tier),
        (types.AdapterChange, adapter_pb.AdapterChange),
    ],
)
def test_enum_has_the_values_of_the_wire(enum: type, wire: object) -> None:
    prefix = wire.DESCRIPTOR.values[0].name.removesuffix("UNSPECIFIED")
    assert [e.name for e in enum] == [v.name.removeprefix(prefix) for v in wire.DESCRIPTOR.values]


def test_options_are_the_fields_of_a_request() -> None:
    hints = types.GenerateOptions.__annotations__
    assert ["input", *hints] == [f.name for f in fields(types.GenerateRequest)]


def test_client_imports_no_heavy_package() -> None:
    """Run in a process of its own: other tests here import torch."""
    code = "import sys, understudy; print({'torch', 'numpy', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
