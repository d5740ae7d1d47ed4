"""Which requests the engine can run at all."""

from server.adapters.weights import AdapterWeights
from server.config import EngineConfig
from server.engine.answer import added_vocabulary
from server.errors import InvalidRequestError
from server.types import BaseInfo, Request
from understudy.artifact import BASE_NAME


def request_label(request: Request) -> str:
    """The adapter's name, `base` without one: the label of metrics."""
    return request.lease.name if request.lease is not None else BASE_NAME


def check_request(request: Request, base: BaseInfo, config: EngineConfig, max_context: int) -> None:
    """Raises InvalidRequestError if the request can never run."""
    prompt = request.prompt_token_ids
    if not prompt:
        raise InvalidRequestError("input", "the prompt has no tokens")
    own = added_vocabulary(request)
    vocab_size = base.vocab_size if own is None else own.num_tokens
    if own is not None and request.constraint is not None:
        raise InvalidRequestError(
            "structured_output",
            f"adapter {request_label(request)!r} adds tokens to the vocabulary, and grammars know "
            "the base's alone; leave one of them out",
        )
    _check_ids("input", prompt, vocab_size)
    highest = max((token_id for token_id, _ in request.sampling.logit_bias), default=0)
    _check_ids(f"sampling.logit_bias[{highest}]", (highest,), vocab_size)
    _check_kind(request)
    num_virtual = 0
    if request.lease is not None:
        num_virtual = request.lease.num_virtual_tokens
        weights = request.lease.weights
        if isinstance(weights, AdapterWeights) and weights.rank > config.max_lora_rank:
            raise InvalidRequestError(
                "adapter", f"rank {weights.rank} exceeds max_lora_rank {config.max_lora_rank}"
            )
    count = len(prompt)
    total = num_virtual + count
    virtual = f" (+ {num_virtual} virtual)" if num_virtual else ""
    if total > max_context:
        raise InvalidRequestError(
            "input", f"prompt of {count} tokens{virtual} exceeds the context of {max_context}"
        )
    for i, continuation in enumerate(request.continuations):
        field = f"continuations[{i}]"
        _check_ids(field, continuation, vocab_size)
        # The last token is predicted, never computed.
        if total + len(continuation) - 1 > max_context:
            raise InvalidRequestError(
                field,
                f"prompt of {count} tokens{virtual} and continuation of {len(continuation)} "
                f"exceed the context of {max_context}",
            )
    if not request.continuations and request.stopping.max_tokens < 1:
        raise InvalidRequestError(
            "stopping.max_tokens", f"{request.stopping.max_tokens} is not a number from 1"
        )


def _check_kind(request: Request) -> None:
    """A classifier classifies and generates nothing; the others know no labels."""
    weights = request.lease.weights if request.lease is not None else None
    can_classify = isinstance(weights, AdapterWeights) and weights.classifier is not None
    if request.classify and not can_classify:
        raise InvalidRequestError(
            "adapter",
            f"{request_label(request)!r} has no classification head; name an adapter trained with "
            "task_type SEQ_CLS, or use Score with the labels as continuations",
        )
    if can_classify and not request.classify:
        raise InvalidRequestError(
            "adapter",
            f"{request_label(request)!r} has a classification head and generates nothing; use "
            "Classify",
        )


def _check_ids(field: str, token_ids: tuple[int, ...], vocab_size: int) -> None:
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
        wrong = next(i for i in token_ids if not 0 <= i < vocab_size)
        raise InvalidRequestError(
            field, f"token id {wrong} is outside the vocabulary of {vocab_size}"
        )
