"""The README's examples run."""

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from understudy.v1 import adapter_service_pb2 as adapter_pb
from understudy.v1 import generation_service_pb2 as generation_pb
from understudy.v1 import types_pb2 as types_pb

README = Path(__file__).parents[2] / "client" / "README.md"


def blocks(language: str) -> list[str]:
    text = README.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_python_example(scripted: Any, wire: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scripted.handlers |= {
        "Generate": wire.echo,
        "GenerateStream": wire.words_stream("v", "streamed"),
        "Score": lambda *_: generation_pb.ScoreResponse(
            scores=[generation_pb.ContinuationScore(logprob=p) for p in (-2.0, -1.0)]
        ),
        "Classify": lambda *_: generation_pb.ClassifyResponse(
            labels=[generation_pb.LabelScore(label="bad", probability=0.75)]
        ),
        "ListAdapters": lambda *_: adapter_pb.ListAdaptersResponse(
            adapters=[types_pb.Adapter(name="summary", version="v1")]
        ),
    }
    for example in blocks("python"):
        exec(example.replace("localhost:50051", scripted.address), {})
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "Customer: my parcel is late. eos",
        "streamed[-2.0, -1.0]",
        "bad 0.75",
        "summary v1 unspecified",
        "The food was cold.",
    ]


def test_command_lines(parse_command: Callable[[Sequence[str]], None]) -> None:
    commands = re.findall(r"(?:^|\| )(understudy .*)$", "".join(blocks("bash")), re.MULTILINE)
    assert len(commands) == 16
    for command in commands:
        parse_command(shlex.split(command))
