"""Rows, split, tokens and batches."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from tests.trainer.conftest import WriteRows
from trainer.corpus import train_tokenizer
from trainer.data import Example, Row, open_source, read_rows, to_examples
from trainer.errors import ConfigError
from trainer.model import load_tokenizer
from trainer.templates import CHAT, bind_chat_template
from trainer.tokens import IGNORED, collate, encode
from understudy.prompt import PromptTemplate


def examples(num: int) -> list[Example]:
    return [Example(f"prompt {i}", f"answer {i}", f"f:{i}") for i in range(num)]


@pytest.fixture(scope="module")
def bos_tokenizer() -> PreTrainedTokenizerBase:
    """Puts a beginning-of-sequence token in front of a prompt, as most do."""
    return train_tokenizer(["user: Hi there\nassistant:\nHello."] * 3, 300, 128)


def test_rows_keep_file_and_line(write_rows: WriteRows) -> None:
    path = write_rows("a.jsonl", [{"input": "x", "completion": "y"}, "", {"input": "z"}])
    assert [(row.where, row.fields["input"]) for row in read_rows([open_source(path)])] == [
        (f"{path}:1", "x"),
        (f"{path}:3", "z"),
    ]


def test_columns_of_the_template_are_used() -> None:
    row = Row({"source": "Hund", "to": "English", "target": "dog", "more": []}, "f:1")
    template = PromptTemplate("{{ source }} in {{ to }}:")
    (example,) = to_examples([row], template, chat=False, completion_column="target")
    assert example == Example("Hund in English:", "dog", "f:1")


def test_last_assistant_turn_is_the_completion() -> None:
    turns = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello."), ("user", "Bye")]
    messages = [{"role": role, "content": content} for role, content in turns]
    row = Row({"messages": [*messages, {"role": "assistant", "content": "See you."}]}, "f:1")
    (example,) = to_examples([row], PromptTemplate(CHAT), chat=True, completion_column="")
    assert example.prompt.endswith("assistant:\nHello.\nuser:\nBye\nassistant:\n")
    assert example.completion == "See you."


def test_tokens_follow_the_contract(bos_tokenizer: PreTrainedTokenizerBase) -> None:
    example = Example("user: Hi", "Hello.", "f:1")
    (encoded,) = encode(bos_tokenizer, [example])
    assert list(encoded.prompt_ids) == bos_tokenizer("user: Hi")["input_ids"]
    assert encoded.prompt_ids[0] == bos_tokenizer.bos_token_id
    expected = bos_tokenizer("Hello.", add_special_tokens=False)["input_ids"]
    assert list(encoded.completion_ids) == [*expected, bos_tokenizer.eos_token_id]


def test_chat_template_is_bound_without_a_second_bos(
    bos_tokenizer: PreTrainedTokenizerBase,
) -> None:
    chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    messages = [{"role": "user", "content": "Hi"}]
    bound = bind_chat_template(
        chat_template,
        bos_token=bos_tokenizer.bos_token,
        eos_token=bos_tokenizer.eos_token,
        adds_bos=True,
    )
    prompt = PromptTemplate(bound).render({"messages": messages})
    bos_tokenizer.chat_template = chat_template
    expected = bos_tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert bos_tokenizer(prompt)["input_ids"] == expected


def test_chat_template_that_reads_more_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"reads date; set data\.template"):
        bind_chat_template("{{ date }}{{ messages }}", bos_token="", eos_token="", adds_bos=False)


def test_collate_pads_right_and_masks_prompts(base: Path) -> None:
    short, long = encode(
        load_tokenizer(base), [Example("ab", "c", "f:1"), Example("the quiet town", "rain", "f:2")]
    )
    batch = collate([short, long])
    assert batch.input_ids.shape == (2, long.num_tokens)
    assert batch.num_tokens == short.num_tokens + long.num_tokens
    assert batch.num_terms == int((batch.labels != IGNORED).sum())
    for row, example in enumerate((short, long)):
        ids = batch.input_ids[row, : example.num_tokens].tolist()
        assert tuple(ids) == example.prompt_ids + example.completion_ids
        learnt = batch.labels[row][batch.labels[row] != IGNORED].tolist()
        assert tuple(learnt) == example.completion_ids
