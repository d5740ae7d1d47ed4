"""The one door to the server: the runner asks a Generator, which is the understudy client."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import Any, Protocol, Self

from evalsuite.batching import BatchDoor
from evalsuite.errors import RequestRefused, ServerAway, ServerError
from evalsuite.types import Answer, ChoiceScore, Request, Row, RowKind
from understudy import (
    AsyncClient,
    ContinuationScore,
    GenerateRequest,
    Input,
    RawPrompt,
    RetryPolicy,
    ScoreResult,
    StoppingParams,
    Usage,
)
from understudy.errors import (
    CancelledError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
    UnderstudyError,
)
from understudy.prompt import PromptTemplate

# A request may wait behind all others of a slow server, so the deadline is long; that a server is
# gone shows as UNAVAILABLE. Another try is the fleet's affair, which may have another server.
_TIMEOUT_S = 900.0
_RETRY = RetryPolicy(max_attempts=1)
# Bound of one stream; how many are sent at a time is the throttle's affair.
_MAX_IN_FLIGHT = 1024
# Nobody waits long to hear that no server is there.
_FIRST_TIMEOUT_S = 5.0


class Generator(Protocol):
    """Answers requests.

    Every method raises RequestRefused where the request itself is at fault, ServerError where the
    server is, and ServerAway where another try may help.
    """

    async def model(self) -> dict[str, Any]:
        """What the server holds, by GetModelInfo's field names."""

    async def adapter_row(self, name: str) -> Row:
        """The row of an adapter, pinned to the version the name stands for now."""

    async def count_tokens(self, prompt: str) -> int:
        """Tokens of a verbatim prompt on the bare base."""

    async def answer(self, request: Request) -> Answer:
        """Greedy text, or the scores of the request's choices."""


# What identifies the arithmetic behind an answer: a change in any of these may change answers.
_IDENTITY = (
    "base_fingerprint",
    "quantization",
    "weight_form",
    "dtype",
    "int8_threshold",
    "max_context_tokens",
    "server_version",
)


def model_identity(model: dict[str, Any]) -> dict[str, Any]:
    """The fields of GetModelInfo that answers depend on."""
    return {name: model[name] for name in _IDENTITY}


class ClientGenerator:
    """A Generator over one server. Use as an asynchronous context manager."""

    def __init__(self, address: str, observe: Callable[[Usage], None] = lambda _: None) -> None:
        """Connects to `HOST:PORT` with the first call. Raises ServerError for a bad address.

        `observe` is told what each answer took.
        """
        self._address = address
        self._observe = observe
        with translated(address):
            self._client = AsyncClient(address, timeout=_TIMEOUT_S, retry=_RETRY)
        self._batch = BatchDoor(self._client, _MAX_IN_FLIGHT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._batch.aclose()
        await self._client.close()

    async def model(self) -> dict[str, Any]:
        """GetModelInfo."""
        with translated(self._address):
            return asdict(await self._client.model_info(timeout=_FIRST_TIMEOUT_S))

    async def adapter_row(self, name: str) -> Row:
        """GetAdapter. An unknown name raises ServerError with the server's close names."""
        with translated(self._address):
            details = await self._client.adapters.get(name)
        adapter, template = details.adapter, (details.manifest or {}).get("prompt_template")
        return Row(
            name,
            RowKind.ADAPTER,
            adapter.name,
            adapter.version,
            adapter.method,
            variables=tuple(sorted(PromptTemplate(template).variables)) if template else (),
        )

    async def count_tokens(self, prompt: str) -> int:
        """Tokenize."""
        with translated(self._address):
            return len((await self._client.tokenize(RawPrompt(prompt))).token_ids)

    async def answer(self, request: Request) -> Answer:
        """Score for a request with choices, otherwise Generate, many over one stream."""
        if request.choices:
            with translated(self._address):
                return await self._scored(request)
        stopping = StoppingParams(max_tokens=request.max_tokens, stop=request.stop)
        asked = GenerateRequest(
            _prompt(request, request.text), adapter=request.adapter, stopping=stopping
        )
        with translated(self._address):
            result = await self._batch.generate(asked)
        self._observe(result.usage)
        return Answer(
            text=result.text,
            finish_reason=str(result.generations[0].finish_reason),
            num_prompt_tokens=result.usage.num_prompt_tokens,
            num_completion_tokens=result.usage.num_completion_tokens,
        )

    async def _scored(self, request: Request) -> Answer:
        """The choices behind the prompt, or each behind its own; then behind one that says nothing.

        The tokens counted are those of the first, which is the question.
        """
        if request.contexts:
            pairs = zip(request.contexts, request.choices, strict=True)
            results = [await self._score(request, context, (text,)) for context, text in pairs]
        else:
            results = [await self._score(request, request.text, request.choices)]
        scores = [score for result in results for score in result.scores]
        plain: list[float | None] = [None] * len(scores)
        if request.unconditional is not None:
            behind_nothing = await self._client.score(
                RawPrompt(request.unconditional), request.choices, adapter=request.adapter
            )
            plain = [score.logprob for score in behind_nothing.scores]
        return Answer(
            choices=tuple(
                _choice_score(text, score, alone)
                for text, score, alone in zip(request.choices, scores, plain, strict=True)
            ),
            num_prompt_tokens=sum(result.usage.num_prompt_tokens for result in results),
            num_completion_tokens=sum(result.usage.num_completion_tokens for result in results),
        )

    async def _score(self, request: Request, text: str, choices: Sequence[str]) -> ScoreResult:
        result = await self._client.score(_prompt(request, text), choices, adapter=request.adapter)
        self._observe(result.usage)
        return result


def _prompt(request: Request, text: str) -> Input:
    if request.raw:
        return RawPrompt(text)
    values = {**request.fields, **dict.fromkeys(request.text_variables, text)}
    return values or text


def _choice_score(text: str, score: ContinuationScore, unconditional: float | None) -> ChoiceScore:
    if math.isnan(score.logprob) or (unconditional is not None and math.isnan(unconditional)):
        raise ServerError(f"the server gave the choice {text!r} a log-likelihood of NaN")
    # As in lm-evaluation-harness, the space that joins a choice to its context is not counted.
    counted = text.lstrip()
    return ChoiceScore(
        score.logprob, score.num_tokens, len(counted), len(counted.encode()), unconditional
    )


@contextmanager
def translated(address: str) -> Iterator[None]:
    """Turns the client's errors into ours."""
    try:
        yield
    except InvalidArgumentError as error:
        raise RequestRefused(str(error)) from error
    except (UnavailableError, CancelledError) as error:
        raise ServerAway(f"no server answers at {address}: {error}") from error
    except ResourceExhaustedError as error:
        if error.retry_delay_s is None:
            raise ServerError(f"{address}: {error}") from error
        raise ServerAway(f"{address}: {error}", error.retry_delay_s) from error
    except UnderstudyError as error:
        raise ServerError(f"{address}: {error}") from error
