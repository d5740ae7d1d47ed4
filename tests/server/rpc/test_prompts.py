"""Conversations, and tokenizers of other families."""

import asyncio
import os
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from server.errors import InvalidRequestError
from server.rpc.prompts import Prompt, PromptEncoder
from understudy.prompt import PromptTemplate
from understudy.v1 import generation_service_pb2 as gpb
from understudy.v1 import types_pb2 as tpb

CHAT = tpb.Input(
    messages=tpb.Conversation(
        messages=[
            tpb.Message(role="system", content="be short"),
            tpb.Message(role="user", content="who paid?"),
        ]
    )
)
OWN = PromptTemplate("{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}Answer:")


@pytest.fixture
def encoder(base: Path) -> PromptEncoder:
    return PromptEncoder(AutoTokenizer.from_pretrained(base), vocab_size=320, max_context_tokens=64)


def encode(encoder: PromptEncoder, template: PromptTemplate | None) -> Prompt:
    return asyncio.run(encoder.encode(CHAT, template))


def test_the_adapters_template_for_messages_comes_first(encoder: PromptEncoder) -> None:
    encoder.tokenizer.chat_template = "unused"
    prompt = encode(encoder, OWN)
    assert prompt.text == "<system> be short\n<user> who paid?\nAnswer:"


def test_otherwise_the_bases_chat_template(encoder: PromptEncoder) -> None:
    encoder.tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    prompt = encode(encoder, None)
    assert prompt.text == "[system]be short[user]who paid?[assistant]"
    # Such a template writes its special tokens itself.
    assert not prompt.special_tokens
    # But never in place of the template that an adapter was trained on.
    with pytest.raises(InvalidRequestError, match="takes input: missing input; unknown messages"):
        encode(encoder, PromptTemplate("Note: {{ input }}"))


def test_a_chat_template_that_refuses(encoder: PromptEncoder) -> None:
    encoder.tokenizer.chat_template = "{{ raise_exception('no system message here') }}"
    with pytest.raises(InvalidRequestError, match=r"input\.messages.*no system message here"):
        encode(encoder, None)


def test_a_text_fills_the_only_variable_whatever_its_name(encoder: PromptEncoder) -> None:
    def rendered(template: str) -> str | None:
        text = tpb.Input(text="noon")
        return asyncio.run(encoder.encode(text, PromptTemplate(template))).text

    assert rendered("Note: {{ input }}") == "Note: noon"
    assert rendered("{{ word }}, {{ word | upper }}:") == "noon, NOON:"
    # Which of several it is cannot be known, even where one of them is `input`.
    with pytest.raises(
        InvalidRequestError,
        match=r"input\.text: prompt template takes input, tone, .* on the command line --input",
    ):
        rendered("{{ tone }}: {{ input }}")
    # A text is no conversation, though its characters could be gone through.
    with pytest.raises(InvalidRequestError, match=r"takes messages, .* \(input\.messages\)"):
        rendered(OWN.template)


def test_neither(encoder: PromptEncoder) -> None:
    with pytest.raises(InvalidRequestError, match="neither the adapter nor the base"):
        encode(encoder, None)


def test_a_context_that_cannot_run_is_tokenized_once(
    encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenized: list[str] = []
    tokenize = PromptEncoder._tokenize

    def counting(self: PromptEncoder, text: str, special_tokens: bool) -> tuple[int, ...]:
        tokenized.append(text)
        return tokenize(self, text, special_tokens)

    monkeypatch.setattr(PromptEncoder, "_tokenize", counting)

    async def run() -> None:
        prompt = await encoder.encode(tpb.Input(text="who paid? " * 100), None)
        await encoder.encode_continuations(prompt, [gpb.Continuation(text="me")] * 100)

    with pytest.raises(InvalidRequestError, match=r"input: prompt of \d+ tokens .* context of 64"):
        asyncio.run(run())
    assert len(tokenized) == 1


@pytest.fixture
def sentencepiece() -> PromptEncoder:
    """A Llama tokenizer: begin-of-sequence in front, the space before a word inside its token."""
    folder = os.environ.get("UNDERSTUDY_TEST_DATA")
    if not folder or not (Path(folder) / "models/stories260K/hf").is_dir():
        pytest.skip("UNDERSTUDY_TEST_DATA holds no models/stories260K")
    tokenizer = AutoTokenizer.from_pretrained(Path(folder) / "models/stories260K/hf")
    return PromptEncoder(tokenizer, vocab_size=len(tokenizer), max_context_tokens=512)


def test_tokens_keep_their_leading_space(sentencepiece: PromptEncoder) -> None:
    prompt = asyncio.run(sentencepiece.encode(tpb.Input(text="Once upon a time"), None))
    assert prompt.token_ids[0] == sentencepiece.tokenizer.bos_token_id
    words = "".join(sentencepiece.token_text(token_id) for token_id in prompt.token_ids[1:])
    assert words.strip() == "Once upon a time"


@pytest.mark.parametrize("context", ["Once upon a", "Once upon a "])
def test_joint_tokens_of_another_family(sentencepiece: PromptEncoder, context: str) -> None:
    whole = sentencepiece.tokenizer("Once upon a time")["input_ids"]

    async def run() -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        prompt = await sentencepiece.encode(tpb.Input(text=context), None)
        text = "Once upon a time".removeprefix(context)
        return await sentencepiece.encode_continuations(prompt, [gpb.Continuation(text=text)])

    ids, (continuation,) = asyncio.run(run())
    assert [*ids, *continuation] == whole
