"""The model card's call of the server fits the adapter's prompt template."""

import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.conftest import WriteConfig, WriteRows, make_rows
from trainer.__main__ import main
from trainer.card import render_card
from understudy.artifact import verify


def test_the_call_in_the_card(
    write_config: WriteConfig,
    write_rows: WriteRows,
    parse_command: Callable[[Sequence[str]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows: list[Any] = [
        {"word": row["input"], "tone": "calm", "completion": row["completion"]}
        for row in make_rows(20)
    ]
    config = write_config(
        data={
            "train": str(write_rows("words.jsonl", rows)),
            "validation": 0.2,
            "template": "{{ tone }}: {{ word }}\n",
        },
        optimiser={"learning_rate": 5e-3, "batch_size": 4, "max_steps": 1},
    )
    assert main(["train", str(config), "--json"]) == 0
    artifact = Path(json.loads(capsys.readouterr().out)["artifact"])
    card = (artifact / "README.md").read_text()
    (command,) = re.findall(r"`(understudy .*?)`", card)
    assert command == 'understudy generate --adapter first --input tone="text" --input word="text"'
    parse_command(shlex.split(command))

    run = json.loads((artifact / "run.json").read_text())
    manifest = verify(artifact)
    for template, task, expected in [
        ("{{ word }}", "CAUSAL_LM", 'understudy generate --adapter first "text"'),
        ("{{ word }}", "SEQ_CLS", 'understudy classify --adapter first "text"'),
        (
            "{{ a }}{{ b }}",
            "SEQ_CLS",
            'understudy classify --adapter first --input a="text" --input b="text"',
        ),
        (
            "{% for m in messages %}{{ m.content }}{% endfor %}",
            "CAUSAL_LM",
            'client.generate([Message("user", "text")], adapter="first")',
        ),
        (
            "{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %}",
            "CAUSAL_LM",
            'understudy generate --adapter first --raw "the rendered prompt"',
        ),
    ]:
        text = render_card(replace(manifest, prompt_template=template), run, task)
        assert f"`{expected}`." in text
