"""From the wire's input to the token ids that run: templates, chat templates, the tokenizer.

Tokens of a prompt are `tokenizer(prompt)` with special tokens added, as in training (see
`understudy.artifact`). A conversation rendered by the base's own chat template is the exception:
such templates write their special tokens themselves.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from server.adapters.weights import AdapterWeights, AddedVocabulary
from server.errors import InvalidRequestError
from server.types import Lease
from understudy.prompt import MESSAGES, PromptError, PromptTemplate
from understudy.v1 import generation_service_pb2, types_pb2

# Up to here rendering and tokenizing take well under a millisecond: cheaper than a thread.
_INLINE_SIZE = 2048
_ROLES = ("system", "user", "assistant")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What runs: token ids, and the text they came from (None for an input of token ids)."""

    token_ids: tuple[int, ...]
    text: str | None
    special_tokens: bool = True
    """Whether the tokenizer added its special tokens to `text`."""


class PromptEncoder:
    """Encodes inputs with one tokenizer. Long inputs are encoded beside the event loop."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, max_context_tokens: int
    ) -> None:
        self.tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._max_context_tokens = max_context_tokens
        self._token_texts: dict[int, str] = {}
        self._others: WeakKeyDictionary[AddedVocabulary, PromptEncoder] = WeakKeyDictionary()
        anchor: list[int] = tokenizer.encode("a", add_special_tokens=False)
        self._anchor = anchor[-1:]
        self._anchor_text = self._decode(self._anchor)

    def of(self, lease: Lease | None) -> "PromptEncoder":
        """The encoder of an adapter's vocabulary: this one, unless it adds tokens."""
        weights = lease.weights if lease is not None else None
        own = weights.vocabulary if isinstance(weights, AdapterWeights) else None
        if own is None:
            return self
        found = self._others.get(own)
        if found is None:
            found = PromptEncoder(own.tokenizer, own.num_tokens, self._max_context_tokens)
            self._others[own] = found
        return found

    async def encode(
        self, message: types_pb2.Input, template: PromptTemplate | None, field: str = "input"
    ) -> Prompt:
        """The prompt of an input. Raises InvalidRequestError naming the field at fault."""
        size = message.ByteSize()
        if template is not None:
            # A short template may ask for much work.
            size = _INLINE_SIZE + 1 if template.may_take_long else size + len(template.template)
        return await beside(size, lambda: self._encode(message, template, field))

    async def encode_continuations(
        self, prompt: Prompt, continuations: Sequence[generation_service_pb2.Continuation]
    ) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        """Token ids of the context and of each continuation.

        A text continuation of a textual context is tokenized jointly with it and cut at the
        context's end. Where that changes the context's own tokens, its trailing white space moves
        to the continuations, for all of them alike. Where even that changes them, the
        continuation is what follows as many tokens as the context has (lm-eval's `_encode_pair`),
        or its own tokens if nothing follows. Beside continuations of token ids the context stays
        as it is. Raises InvalidRequestError.
        """
        size = len(prompt.text or "") * len(continuations)
        size += sum(continuation.ByteSize() for continuation in continuations)
        return await beside(size, lambda: self._encode_continuations(prompt, continuations))

    async def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """Each token's own text."""
        return await beside(len(token_ids), lambda: [self.token_text(i) for i in token_ids])

    def token_text(self, token_id: int) -> str:
        """A token's own text, with its leading space; incomplete UTF-8 shows as U+FFFD."""
        text = self._token_texts.get(token_id)
        if text is None:
            # Behind another token: some decoders strip the space in front of a text's first.
            joined = self._decode([*self._anchor, token_id])
            text = (
                joined[len(self._anchor_text) :]
                if joined.startswith(self._anchor_text)
                else self._decode([token_id])
            )
            self._token_texts[token_id] = text
        return text

    def _decode(self, token_ids: list[int]) -> str:
        text = self.tokenizer.decode(
            token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    def _tokenize(self, text: str, special_tokens: bool) -> tuple[int, ...]:
        encoded = self.tokenizer(text, add_special_tokens=special_tokens, verbose=False)
        return tuple(encoded["input_ids"])

    def _encode(
        self, message: types_pb2.Input, template: PromptTemplate | None, field: str
    ) -> Prompt:
        form = message.WhichOneof("form")
        if form is None:
            raise InvalidRequestError(
                field, "is missing; set one of text, variables, messages, raw_prompt, token_ids"
            )
        where = f"{field}.{form}"
        if form == "token_ids":
            return Prompt(self._check_ids(message.token_ids.ids, where), None)
        special_tokens = True
        if form == "raw_prompt":
            text = message.raw_prompt
        elif form == "text":
            text = _render_text(template, message.text, where) if template else message.text
        elif form == "variables":
            if template is None:
                raise InvalidRequestError(
                    where, "there is no prompt template to fill in; use text or raw_prompt"
                )
            text = _render(template, dict(message.variables.values), where)
        else:
            text, special_tokens = self._render_messages(message.messages, template, where)
        prompt = Prompt(self._tokenize(text, special_tokens), text, special_tokens)
        if not prompt.token_ids:
            raise InvalidRequestError(where, "the prompt is empty: it has no tokens")
        return prompt

    def _render_messages(
        self, conversation: types_pb2.Conversation, template: PromptTemplate | None, where: str
    ) -> tuple[str, bool]:
        messages = [{"role": m.role, "content": m.content} for m in conversation.messages]
        if not messages:
            raise InvalidRequestError(where, "holds no messages")
        for index, message in enumerate(messages):
            if message["role"] not in _ROLES:
                raise InvalidRequestError(
                    f"{where}.messages[{index}].role",
                    f"{message['role'][:80]!r} is none of {', '.join(_ROLES)}",
                )
        if template is not None:
            # Never the base's instead: the adapter was trained on its own.
            return _render(template, {MESSAGES: messages}, where), True
        if not self.tokenizer.chat_template:
            raise InvalidRequestError(
                where, "neither the adapter nor the base has a template for conversations"
            )
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise InvalidRequestError(where, f"the base's chat template: {error}") from error
        assert isinstance(text, str)
        return text, False

    def _check_ids(self, ids: Sequence[int], where: str) -> tuple[int, ...]:
        if not ids:
            raise InvalidRequestError(where, "holds no token ids")
        if max(ids) >= self._vocab_size:
            index = next(i for i, token_id in enumerate(ids) if token_id >= self._vocab_size)
            raise InvalidRequestError(
                f"{where}.ids[{index}]",
                f"{ids[index]} is outside of the vocabulary of {self._vocab_size}",
            )
        return tuple(ids)

    def _encode_continuations(
        self, prompt: Prompt, continuations: Sequence[generation_service_pb2.Continuation]
    ) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        for index, continuation in enumerate(continuations):
            where = f"continuations[{index}]"
            form = continuation.WhichOneof("form")
            if form is None:
                raise InvalidRequestError(where, "is missing; set text or token_ids")
            if form == "text" and not continuation.text:
                raise InvalidRequestError(f"{where}.text", "is empty")
            if form == "token_ids":
                self._check_ids(continuation.token_ids.ids, f"{where}.token_ids")
        # Before the context is tokenized once more for each of them.
        if len(prompt.token_ids) > self._max_context_tokens:
            raise InvalidRequestError(
                "input",
                f"prompt of {len(prompt.token_ids)} tokens exceeds the context of "
                f"{self._max_context_tokens}",
            )
        texts = [c.text for c in continuations if c.WhichOneof("form") == "text"]
        context, encoded = prompt.token_ids, [self._tokenize(text, False) for text in texts]
        if prompt.text is not None and texts:
            may_strip = len(texts) == len(continuations)
            context, encoded = self._encode_jointly(prompt, prompt.text, texts, may_strip)
        remaining = iter(encoded)
        result = tuple(
            next(remaining) if c.WhichOneof("form") == "text" else tuple(c.token_ids.ids)
            for c in continuations
        )
        for index, token_ids in enumerate(result):
            if not token_ids:
                raise InvalidRequestError(f"continuations[{index}]", "has no tokens")
        return context, result

    def _encode_jointly(
        self, prompt: Prompt, text: str, continuations: Sequence[str], may_strip: bool
    ) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        special_tokens = prompt.special_tokens
        joint = [self._tokenize(text + c, special_tokens) for c in continuations]
        context = prompt.token_ids
        if all(len(ids) > len(context) and ids[: len(context)] == context for ids in joint):
            return context, [ids[len(context) :] for ids in joint]
        space = ""
        if may_strip and (stripped := self._tokenize(text.rstrip(), special_tokens)):
            context, space = stripped, text[len(text.rstrip()) :]
        return context, [
            ids[len(context) :] or self._tokenize(space + c, False)
            for ids, c in zip(joint, continuations, strict=True)
        ]


def _render_text(template: PromptTemplate, text: str, where: str) -> str:
    name = template.text_variable
    if name is not None:
        return _render(template, {name: text}, where)
    names = ", ".join(sorted(template.variables))
    if MESSAGES in template.variables:
        remedy = "give a conversation (input.messages), or the whole prompt (input.raw_prompt)"
    else:
        remedy = "give each by name (input.variables; on the command line --input NAME=VALUE)"
    raise InvalidRequestError(
        where, f"prompt template takes {names}, which one text does not fill; {remedy}"
    )


def _render(template: PromptTemplate, values: dict[str, Any], where: str) -> str:
    try:
        return template.render(values)
    except PromptError as error:
        raise InvalidRequestError(where, str(error)) from error


async def beside(size: int, work: Callable[[], T]) -> T:
    """Runs `work`, beside the event loop if it is long by `size`, its bytes, tokens or numbers."""
    return work() if size <= _INLINE_SIZE else await asyncio.to_thread(work)
