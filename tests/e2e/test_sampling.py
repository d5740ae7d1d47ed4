"""Sampling through the real process: clients of both colours and the command line agree."""

import json

import pytest

from understudy import (
    AsyncClient,
    Client,
    GenerateRequest,
    OutputOptions,
    SamplingParams,
    StoppingParams,
    StreamDelta,
    StreamFinished,
)
from understudy.__main__ import main

TEXT = "a quiet town"
REQUEST = GenerateRequest(
    TEXT,
    adapter="polite",
    sampling=SamplingParams(
        temperature=1.0,
        seed=11,
        min_p=0.001,
        repetition_penalty=1.2,
        frequency_penalty=0.25,
        presence_penalty=0.5,
        logit_bias={70: 1.5, 71: -4.0},
    ),
    stopping=StoppingParams(max_tokens=10, min_tokens=10),
    num_samples=3,
)


async def test_every_door_gives_the_same_samples(
    server, capsys: pytest.CaptureFixture[str]
) -> None:
    with Client(server.address) as client:
        whole = client.generate(REQUEST)
        (batched,) = client.batch_generate([("key", REQUEST)])
        alone = client.generate(REQUEST, num_samples=1)
    async with AsyncClient(server.address) as client:
        events = [event async for event in client.stream(REQUEST)]
    texts = [generation.text for generation in whole.generations]
    assert len(set(texts)) == 3
    assert alone.text == whole.text
    assert whole.usage.num_completion_tokens == 30
    assert batched.result is not None
    assert [generation.text for generation in batched.result.generations] == texts
    deltas = [event for event in events if isinstance(event, StreamDelta)]
    for index, text in enumerate(texts):
        assert "".join(delta.text for delta in deltas if delta.index == index) == text
    assert isinstance(events[-1], StreamFinished)
    assert [ending.index for ending in events[-1].generations] == [0, 1, 2]
    flags = (
        "--adapter polite --temperature 1 --seed 11 --min-p 0.001 --repetition-penalty 1.2 "
        "--frequency-penalty 0.25 --presence-penalty 0.5 --logit-bias 70=1.5 --logit-bias 71=-4 "
        "--max-tokens 10 --min-tokens 10 --samples 3 --json"
    )
    assert main(["generate", "--server", server.address, *flags.split(), TEXT]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [generation["text"] for generation in printed["generations"]] == texts


def test_prompt_logprobs(server, capsys: pytest.CaptureFixture[str]) -> None:
    with Client(server.address) as client:
        tokens = client.tokenize(TEXT, adapter="pirate")
        output = OutputOptions(prompt_logprobs=True, top_logprobs=3)
        result = client.generate(TEXT, adapter="pirate", output=output, stopping=REQUEST.stopping)
    assert [entry.token_id for entry in result.prompt_logprobs] == list(tokens.token_ids[1:])
    assert all(len(entry.top) == 3 for entry in result.prompt_logprobs)
    command = ["generate", "--server", server.address, "--adapter", "pirate", "--prompt-logprobs"]
    assert main([*command, "--max-tokens", "2", TEXT]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "prompt:"
    assert [row.split()[1] for row in rows[2 : len(tokens.token_ids) + 1]] == [
        str(token_id) for token_id in tokens.token_ids[1:]
    ]
