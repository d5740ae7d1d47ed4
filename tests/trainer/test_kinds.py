"""Kinds of rows: chats of which every turn is learnt, and preferences, which await an objective."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from tests.trainer.conftest import WriteConfig, WriteRows
from tests.trainer.test_train import train
from trainer.corpus import train_tokenizer
from trainer.data import Preference, Row, format_of, to_examples, to_preferences
from trainer.errors import DataError
from trainer.model import load_base
from trainer.objectives.supervised import summed_loss
from trainer.templates import CHAT
from trainer.tokens import IGNORED, Encoded, collate, encode
from understudy.prompt import PromptTemplate

# As many instruct models word it, with an end-of-sequence token behind each turn.
ENDED = (
    "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}</s>\n{% endfor %}assistant: "
).replace("</s>", "<|end|>")
TURNS = [
    ("system", "Be kind."),
    ("user", "Hi"),
    ("assistant", "Hello."),
    ("user", "Bye"),
    ("assistant", "See you."),
]


def messages(turns: Sequence[tuple[str, str]] = TURNS) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def chat_row(turns: Sequence[tuple[str, str]] = TURNS) -> Row:
    return Row({"messages": messages(turns)}, "f:1")


def read(row: Row, template: str, *, all_turns: bool = True) -> Any:
    parsed = PromptTemplate(template)
    return to_examples([row], parsed, chat=True, completion_column="", all_turns=all_turns)[0]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    found = train_tokenizer([PromptTemplate(ENDED).render({"messages": messages()})] * 3, 300, 256)
    found.add_special_tokens({"eos_token": "<|end|>"})
    return found


def learnt_texts(tokenizer: PreTrainedTokenizerBase, encoded: Encoded) -> list[str]:
    """The text of each run of learnt tokens."""
    runs: list[list[int]] = [[]]
    for label in encoded.labels:
        if label == IGNORED:
            runs.append([])
        else:
            runs[-1].append(label)
    return [tokenizer.decode(run) for run in runs if run]


@pytest.mark.parametrize("template", [CHAT, ENDED])
def test_every_turn_is_learnt_where_its_prompt_ends(
    template: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    example = read(chat_row(), template)
    (encoded,) = encode(tokenizer, [example])
    end = "<|end|>" if template == ENDED else ""
    assert learnt_texts(tokenizer, encoded) == [f"Hello.{end}", "See you.<|end|>"]
    # All of it is the chat as the server would render it, and one text.
    text = tokenizer.decode(encoded.input_ids)
    whole = PromptTemplate(template).render({"messages": messages()[:-1]})
    assert text.removeprefix(tokenizer.bos_token or "") == f"{whole}See you.<|end|>"
    # What precedes the first learnt turn is, id by id, the prompt the server would get for it.
    first = PromptTemplate(template).render({"messages": messages()[:2]})
    assert list(encoded.prompt_ids) == tokenizer(first)["input_ids"]
    assert encoded.num_learnt == sum(label != IGNORED for label in encoded.labels)


def test_only_the_last_turn_by_default(tokenizer: PreTrainedTokenizerBase) -> None:
    (encoded,) = encode(tokenizer, [read(chat_row(), ENDED, all_turns=False)])
    assert encoded.learnt is None
    assert learnt_texts(tokenizer, encoded) == ["See you.<|end|>"]


def test_a_chat_of_one_turn_is_the_same_either_way(tokenizer: PreTrainedTokenizerBase) -> None:
    row = chat_row(TURNS[:3])
    one, other = (
        encode(tokenizer, [read(row, CHAT, all_turns=every)])[0] for every in (True, False)
    )
    assert one == other


def test_trimmed_turns_are_found(tokenizer: PreTrainedTokenizerBase) -> None:
    turns = [("user", "Hi"), ("assistant", "  Hello. "), ("user", "Bye"), ("assistant", "Ok")]
    (encoded,) = encode(tokenizer, [read(chat_row(turns), ENDED)])
    assert learnt_texts(tokenizer, encoded) == ["Hello.<|end|>", "Ok<|end|>"]


def test_a_template_that_words_earlier_turns_otherwise_is_refused() -> None:
    other = "{% for m in messages %}{{ m.role }}> {{ m.content }}\n{% endfor %}assistant: "
    with pytest.raises(DataError, match=r"f:1: messages\[2\] does not follow.*assistant_turns"):
        read(chat_row(), other)


def test_the_loss_of_all_turns_is_the_sum_over_them(base: Path) -> None:
    """Each turn's terms are those of the same tokens behind the same tokens, alone."""
    model = load_base(base, quantization="none", dtype=torch.float32, device="cpu")
    whole = Encoded((5, 6), (7, 8, 9, 10, 0), "f:1", (True, True, False, False, True))
    first = Encoded((5, 6), (7, 8), "f:1")
    last = Encoded((5, 6, 7, 8, 9, 10), (0,), "f:1")
    apart = sum(summed_loss(model, collate([one])).item() for one in (first, last))
    batch = collate([whole, first])
    assert batch.num_terms == 5
    together = summed_loss(model, batch).item()
    alone = summed_loss(model, collate([first])).item()
    assert together - alone == pytest.approx(apart, rel=1e-5)


def test_a_run_that_learns_all_turns(
    write_config: WriteConfig, write_rows: WriteRows, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"messages": messages([("user", f"Hi {i}"), ("assistant", "Yes"), *TURNS[3:]])}
        for i in range(20)
    ]
    path = write_rows("train.jsonl", rows)
    tokens = {}
    for turns in ("last", "all"):
        data = {"train": str(path), "validation": 0.2, "assistant_turns": turns}
        found = [
            train(write_config(data=data | {"stream": stream}), capsys, "--overwrite")
            for stream in (True, False)
        ]
        assert found[0]["content_hash"] == found[1]["content_hash"]
        tokens[turns] = found[0]["content_hash"]
    assert tokens["last"] != tokens["all"]


def test_preferences_are_read() -> None:
    row = Row({"prompt": "Two and two?", "chosen": "4", "rejected": "5"}, "f:1")
    assert format_of(row, "auto") == "preference"
    template = PromptTemplate("Q: {{ prompt }}")
    expected = Preference("Q: Two and two?", "4", "f:1", rejected="5")
    assert to_preferences([row], template, chat=False) == [expected]
    sides = {
        side: messages([("user", "Two and two?"), ("assistant", text)])
        for side, text in (("chosen", "4"), ("rejected", "5"))
    }
    (found,) = to_preferences([Row(sides, "f:1")], PromptTemplate(CHAT), chat=True)
    assert found == Preference("user:\nTwo and two?\nassistant:\n", "4", "f:1", rejected="5")


GOOD = {"prompt": "a", "chosen": "b", "rejected": "c"}
BAD: list[tuple[Any, str]] = [
    (GOOD, ":1: 2 rows with 'chosen' and 'rejected' can be read, but the objective 'supervised'"),
    ({**GOOD, "rejected": " "}, ":2: column 'rejected' is empty; give both completions"),
    ({**GOOD, "rejected": "b"}, ":2: 'chosen' and 'rejected' are the same; nothing to prefer"),
    ({"prompt": "a", "chosen": "b"}, ":2: column 'rejected' is missing"),
    ({**GOOD, "chosen": ["b"]}, ":2: column 'chosen' must be text, got list"),
]


@pytest.mark.parametrize(("row", "expected"), BAD, ids=[expected for _, expected in BAD])
def test_preferences_await_their_objective(
    row: Any,
    expected: str,
    write_config: WriteConfig,
    write_rows: WriteRows,
    refused: Callable[..., str],
) -> None:
    path = write_rows("train.jsonl", [GOOD, row])
    config = write_config(data={"train": str(path)})
    assert f"{path}{expected}" in refused(config)


def test_preferences_of_messages(
    write_config: WriteConfig, write_rows: WriteRows, refused: Callable[..., str]
) -> None:
    sides = {
        "chosen": messages([("user", "a"), ("assistant", "b")]),
        "rejected": messages([("user", "other"), ("assistant", "c")]),
    }
    path = write_rows("train.jsonl", [sides])
    config = write_config(data={"train": str(path)})
    assert "must hold the same messages before the last" in refused(config)
    sides["rejected"] = [{"role": "user"}]
    path.write_text(json.dumps(sides))
    assert ":1: rejected[0] must have text in role and content" in refused(config)


def test_one_file_of_a_task_in_another_form(
    write_config: WriteConfig, write_rows: WriteRows, refused: Callable[..., str]
) -> None:
    """The first row decides; one that differs is named."""
    path = write_rows("train.jsonl", [{"input": "a", "completion": "b"}, {"messages": []}])
    assert f"{path}:2: column 'input' is missing (there is messages)" in refused(write_config())
