"""Structured output through the real process: clients of both colours and the command line."""

import json
from pathlib import Path

import pytest

from understudy import (
    AsyncClient,
    Client,
    FinishReason,
    GenerateRequest,
    InvalidArgumentError,
    SamplingParams,
    StoppingParams,
    StreamDelta,
    StreamFinished,
    StructuredOutput,
)
from understudy.__main__ import main

TEXT = "a quiet town"
SCHEMA = {
    "type": "object",
    "properties": {"place": {"type": "string", "maxLength": 9}, "quiet": {"type": "boolean"}},
    "required": ["place", "quiet"],
    "additionalProperties": False,
}
REQUEST = GenerateRequest(
    TEXT,
    adapter="polite",
    sampling=SamplingParams(temperature=1.0, seed=11),
    stopping=StoppingParams(max_tokens=120),
    structured_output=StructuredOutput(json_schema=json.dumps(SCHEMA)),
)


async def test_every_door_gives_the_same_json(
    server, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with Client(server.address) as client:
        whole = client.generate(REQUEST)
        (batched,) = client.batch_generate([("key", REQUEST)])
    async with AsyncClient(server.address) as client:
        events = [event async for event in client.stream(REQUEST)]
    assert whole.generations[0].finish_reason is FinishReason.EOS
    value = json.loads(whole.text)
    assert list(value) == ["place", "quiet"]
    assert len(value["place"]) <= 9
    assert isinstance(value["quiet"], bool)
    assert batched.result is not None
    assert batched.result.text == whole.text
    deltas = [event for event in events if isinstance(event, StreamDelta)]
    assert "".join(delta.text for delta in deltas) == whole.text
    assert isinstance(events[-1], StreamFinished)
    assert events[-1].generations[0].finish_reason is FinishReason.EOS
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA), encoding="utf-8")
    flags = "--adapter polite --temperature 1 --seed 11 --max-tokens 120 --json-schema"
    command = ["generate", "--server", server.address, *flags.split(), str(file), TEXT]
    assert main(command) == 0
    assert capsys.readouterr().out == whole.text + "\n"


def test_forms_and_refusals(server, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "list.lark").write_text('start: "- " ITEM\nITEM: /[a-z]{3,9}/', encoding="utf-8")
    command = ["generate", "--server", server.address, TEXT]
    assert main([*command, "--choice", "open", "--choice", "closed"]) == 0
    assert capsys.readouterr().out in ("open\n", "closed\n")
    assert main([*command, "--regex", "[0-9]{4}"]) == 0
    assert len(capsys.readouterr().out) == 5
    assert main([*command, "--grammar", str(tmp_path / "list.lark")]) == 0
    assert capsys.readouterr().out.startswith("- ")
    assert main([*command, "--regex", "(a"]) == 2
    assert capsys.readouterr().err.startswith("understudy: structured_output.regex: ")
    with (
        Client(server.address) as client,
        pytest.raises(InvalidArgumentError, match="stop: cannot be combined") as caught,
    ):
        client.generate(REQUEST, stopping=StoppingParams(stop=["x"]))
    assert [violation.field for violation in caught.value.violations] == ["stopping.stop"]
