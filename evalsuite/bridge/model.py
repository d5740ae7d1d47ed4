"""`understudy`, a model class of lm-evaluation-harness: needs lm_eval, the optional extra.

Conventions are those of lm_eval's own class for transformers models (`hf`): the same tokens, the
same cuts where something is too long, the same numbers. Prompts are verbatim, also an adapter's,
unless `template` is set.
"""

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from evalsuite.bridge.door import Door, Ids, Pair
from evalsuite.bridge.options import DEFAULT_MAX_TOKENS, read_options
from evalsuite.errors import InputError, RequestRefused, ServerError, nearest
from understudy import GenerateRequest, TokenIds
from understudy.artifact import BASE_NAME

_LOG = logging.getLogger(__name__)
_ARGUMENTS = ("server", "adapter", "template", "concurrency")
# Bounds what is held of tokens at a time.
_CHUNK = 4096

Tokens = tuple[Any, list[int], list[int]]
"""lm_eval's request: its texts or None, the context's ids, the continuation's ids."""


@register_model("understudy")
class UnderstudyLM(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """The base or one adapter behind a server."""

    def __init__(
        self,
        server: str = "",
        adapter: str = BASE_NAME,
        template: bool = False,
        concurrency: int | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **unknown: object,
    ) -> None:
        """Connects to `server` (`HOST:PORT`) and pins `adapter` to a version.

        With `template` a context goes through the adapter's own template, as its input.
        `batch_size`, `max_batch_size` and `device` are lm_eval's own, and the server's affair.
        Raises InputError and ServerError.
        """
        super().__init__()
        for name in unknown:
            raise InputError(f"--model_args: unknown '{name}'; {nearest(name, _ARGUMENTS)}")
        if not server:
            raise InputError("--model_args: server=HOST:PORT is missing")
        self._door = Door(server, str(adapter), concurrency)
        if template and not self._door.adapter:
            raise InputError("--model_args: template=True needs an adapter; the base has none")
        self._template = template
        self._known: dict[str, Ids] = {}
        self._rendered: dict[str, str] = {}

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._named_token(self._door.model.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands in front where there is no context: the token that begins, or ends, a text.

        Raises InputError if the base has neither.
        """
        bos, eos = self._door.model.bos_token_id, self._door.model.eos_token_id
        return self._named_token(eos if bos is None else bos)

    def _named_token(self, token: int | None) -> int:
        if token is None:
            raise InputError(
                f"{self._door.address}: the base's tokenizer names no token that begins or ends a "
                "text, so nothing can be scored without a context"
            )
        return token

    @property
    def max_length(self) -> int:
        """Tokens of the context, without an adapter's virtual ones."""
        return self._door.max_tokens

    @property
    def max_gen_toks(self) -> int:
        """Most tokens to generate where a task does not say."""
        return DEFAULT_MAX_TOKENS

    @property
    def tokenizer_name(self) -> str:
        """What identifies tokenizer and templates in lm_eval's cache of requests."""
        return f"{self._door.model.base_fingerprint}:{self._door.adapter}"

    def get_model_info(self) -> dict[str, Any]:
        """What identifies the model, for lm_eval's results."""
        model = self._door.model
        return {
            "base_model": model.base_model,
            "base_fingerprint": model.base_fingerprint,
            "quantization": model.quantization,
            "model_dtype": model.dtype,
            "model_num_parameters": model.num_parameters,
            "adapter": self._door.adapter or BASE_NAME,
            "server_version": model.server_version,
        }

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The prompt of a conversation, by the adapter's template or the base's chat template.

        Without `add_generation_prompt` the last message is the beginning of the answer. Templates
        without a system role get none, with a warning.
        """
        turns, begun = list(chat_history), ""
        if not add_generation_prompt:
            begun = turns.pop()["content"]
        others = [turn for turn in turns if turn["role"] != "system"]
        try:
            return self._door.render(turns) + begun
        except RequestRefused as error:
            if len(others) in (0, len(turns)):
                raise
            _LOG.warning("%s; asked again without the system message", error)
            return self._door.render(others) + begun

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: object
    ) -> list[int]:
        """Token ids of a verbatim text; special tokens in front unless False."""
        ids = self._known.get(string) or self._door.encode([string])[0]
        special = self._door.special_text
        if add_special_tokens is False and not (special and string.startswith(special)):
            ids = ids[len(self._door.special_tokens) :]
        return list(ids)

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether greedy) of each request's (context, continuation)."""
        found: list[tuple[float, bool]] = []
        for chunk in _chunks(requests):
            contexts = {context for context, _ in (request.args for request in chunk)}
            self._render([context for context in contexts if context])
            texts = {self._context(context).rstrip() for context in contexts}
            texts |= {self._context(context) + text for context, text in (r.args for r in chunk)}
            self._encode([text for text in texts if text])
            found += super().loglikelihood(chunk, disable_tqdm=disable_tqdm)
        return found

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        ids, following = super()._encode_pair(self._context(context), continuation)
        # Of white space alone nothing is left.
        return ids or [self.prefix_token_id], following

    def _loglikelihood_tokens(
        self, requests: Sequence[Tokens], disable_tqdm: bool = False, **kwargs: object
    ) -> list[tuple[float, bool]]:
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        pairs = [self._pair(*request) for request in requests]
        progress = tqdm(total=len(pairs), desc="Scoring", disable=disable_tqdm)
        for index, score in self._door.score(pairs):
            key = requests[index][0]
            if math.isnan(score.logprob):
                raise ServerError(f"the server gave {key!r} a log-likelihood of NaN")
            found[index] = score.logprob, score.is_greedy
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, found[index])
            progress.update()
        progress.close()
        return found

    def _pair(self, key: object, context: list[int], continuation: list[int]) -> Pair:
        """As lm_eval cuts it: from the left, and the last token fills no position."""
        room = self.max_length + 1 - len(continuation)
        if not continuation or room < 1:
            raise InputError(
                f"{repr(key)[:80]}: the continuation has {len(continuation)} tokens, must have "
                f"1 to {self.max_length}"
            )
        if len(context) > room:
            _LOG.warning("%d tokens cut from the left of a context", len(context) - room)
        return Pair(tuple(context[-room:]), tuple(continuation))

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood in nats of each request's (text,), in windows as long as the context.

        As in `hf` the prefix token stands in front of the text's special tokens, if it has some.
        """
        found: list[float] = []
        for chunk in _chunks(requests):
            texts = [request.args[0] for request in chunk]
            self._encode(texts)
            windows: list[Tokens] = []
            counts = []
            for text in texts:
                rolling = get_rolling_token_windows(
                    token_list=self.tok_encode(text),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
                own = [(None, *make_disjoint_window(window)) for window in rolling]
                windows += own
                counts.append(len(own))
            scores = iter(self._loglikelihood_tokens(windows, disable_tqdm))
            for text, count in zip(texts, counts, strict=True):
                found.append(sum(logprob for logprob, _ in itertools.islice(scores, count)))
                self.cache_hook.add_partial("loglikelihood_rolling", (text,), found[-1])
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The text after each request's context, by its generation arguments."""
        found = [""] * len(requests)
        progress = tqdm(total=len(requests), desc="Generating", disable=disable_tqdm)
        for start in range(0, len(requests), _CHUNK):
            chunk = requests[start : start + _CHUNK]
            contexts = [request.args[0] for request in chunk]
            self._render(list(dict.fromkeys(context for context in contexts if context)))
            self._encode(list({self._context(context) for context in contexts}))
            asked = [self._generation(*request.args) for request in chunk]
            for index, text in self._door.generate(asked):
                found[start + index] = text
                self.cache_hook.add_partial("generate_until", chunk[index].args, text)
                progress.update()
        progress.close()
        return found

    def _generation(self, context: str, arguments: Mapping[str, Any]) -> GenerateRequest:
        sampling, stopping = read_options(arguments)
        assert stopping.max_tokens is not None
        room = self.max_length - stopping.max_tokens
        if room < 1:
            raise InputError(
                f"max_gen_toks: {stopping.max_tokens} leaves no room for a prompt in a context of "
                f"{self.max_length} tokens"
            )
        ids = self.tok_encode(self._context(context)) or [self.prefix_token_id]
        return GenerateRequest(
            TokenIds(ids[-room:]),
            adapter=self._door.adapter,
            sampling=sampling,
            stopping=stopping,
        )

    def _context(self, context: str) -> str:
        """What the model reads of a context."""
        return self._rendered.get(context, context)

    def _render(self, contexts: Sequence[str]) -> None:
        if self._template:
            self._rendered = dict(zip(contexts, self._door.render_all(contexts), strict=True))

    def _encode(self, texts: Sequence[str]) -> None:
        """Has the texts' tokens at hand, asked for at a time."""
        self._known = dict(zip(texts, self._door.encode(texts), strict=True))


def _chunks(requests: Sequence[Any]) -> list[Sequence[Any]]:
    return [requests[start : start + _CHUNK] for start in range(0, len(requests), _CHUNK)]
