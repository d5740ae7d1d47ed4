"""What the trainer encodes is what the engine runs, token for token: the very ids that it scored.

The base has what makes this hard: a token in front of every prompt, and a chat template that writes
it too.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import LlamaConfig

from tests.process import start
from tests.tiny import make_model
from trainer.__main__ import main
from trainer.config_file import load_config
from trainer.corpus import train_tokenizer
from trainer.preflight import prepare
from trainer.resolve import detect_hardware, resolve
from understudy import Client, Message, OutputOptions, StoppingParams

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}"
    "{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TEXTS = [
    "The late train left a quiet town before noon.",
    "  Leading spaces, a tab\tand\n\ntwo line breaks \n",
    "Größe, naïve, 東京 and 🦜🦜",
    "{{ not }} a {% template %} & <s> \\n 'quotes' \"more\"",
    "0123456789 3.14 -7",
    "x",
]
COLUMNS = [
    {"input": text, "passage": text[::-1], "question": f"Why {number}?", "completion": f"c {text}"}
    for number, text in enumerate(TEXTS)
]
CHATS = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": text},
            {"role": "assistant", "content": "Well."},
            {"role": "user", "content": "And?"},
            {"role": "assistant", "content": f"a {number}"},
        ]
    }
    for number, text in enumerate(TEXTS)
]
CASES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "named": (COLUMNS, {"template_name": "summarize/3"}),
    "sampled": (COLUMNS, {"templates": ["answer_passage/*"], "validation": 0.6}),
    "own": (COLUMNS, {"template": "{%- if input -%} {{ input | trim }}!{% endif %} é\t"}),
    "chat": (CHATS, {}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prompts")


@pytest.fixture(scope="module")
def configs(folder: Path) -> dict[str, Path]:
    """A base, and for each case a published adapter and the configuration that trained it."""
    tokenizer = train_tokenizer([*TEXTS, CHAT_TEMPLATE] * 3, 320, 512)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    make_model(folder / "base", config)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder / "base")
    paths = {}
    for name, (rows, data) in CASES.items():
        content = {
            "name": name,
            "base": str(folder / "base"),
            "data": {"train": str(write_rows(folder / f"{name}.jsonl", rows)), "validation": 0}
            | data,
            "method": {"type": "prompt_tuning", "num_virtual_tokens": 3},
            "optimiser": {"max_steps": 1},
            "output": {"dir": str(folder / f"run-{name}"), "store": str(folder / "store")},
            "num_threads": 1,
        }
        paths[name] = folder / f"{name}.yaml"
        paths[name].write_text(yaml.safe_dump(content))
        assert main(["train", str(paths[name]), "--quiet"]) == 0
    return paths


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def client(folder: Path, configs: dict[str, Path]) -> Iterator[Client]:
    server = start(folder, ["--base", folder / "base", "--store", folder / "store"])
    with Client(server.address) as connected:
        yield connected
    assert server.terminate() == 0, server.log.read_text()


@pytest.mark.parametrize("case", sorted(CASES))
def test_same_tokens(case: str, configs: dict[str, Path], client: Client) -> None:
    prepared = prepare(resolve(load_config(configs[case]), detect_hardware()))
    rows, data = CASES[case]
    # Validation has the wording that travels with the adapter.
    examples = list(prepared.validation if "validation" in data else prepared.train)
    assert len(examples) >= (2 if "validation" in data else len(rows))
    for example in examples:
        row = rows[int(example.where.rpartition(":")[2]) - 1]
        values: Any = {name: row[name] for name in prepared.template.variables}
        if case == "chat":
            values = [Message(m["role"], m["content"]) for m in row["messages"][:-1]]
        assert client.tokenize(values, adapter=case).token_ids == example.prompt_ids
        answer = client.generate(
            values,
            adapter=case,
            stopping=StoppingParams(max_tokens=1),
            output=OutputOptions(prompt_logprobs=True),
        )
        # The first token of the prompt is predicted from the virtual tokens, or from nothing.
        scored = tuple(entry.token_id for entry in answer.prompt_logprobs)
        assert scored == example.prompt_ids[len(example.prompt_ids) - len(scored) :]
        assert len(scored) >= len(example.prompt_ids) - 1
        bos = prepared.tokenizer.bos_token_id
        assert example.prompt_ids.count(bos) == 1
        assert example.prompt_ids[0] == bos
