"""From the client's dataclasses to the wire's messages.

Requests are checked for form only: a value that its field cannot hold raises InvalidArgumentError
with the field's path. What a value means is the server's to judge.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from google.protobuf.message import Message as ProtoMessage

from understudy import types as t
from understudy.errors import invalid_argument
from understudy.v1 import adapter_service_pb2 as adapter_pb
from understudy.v1 import generation_service_pb2 as generation_pb
from understudy.v1 import types_pb2 as types_pb

M = TypeVar("M", bound=ProtoMessage)


def build(kind: type[M], path: str = "", /, **values: Any) -> M:
    """A message with `values`, None left out. Names the field that does not take its value."""
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        for name, value in values.items():
            try:
                kind(**{name: value})
            except (TypeError, ValueError) as reason:
                raise invalid_argument(f"{path}{name}", f"{value!r}: {reason}") from None
        raise error


def _strings(path: str, values: Sequence[str]) -> Sequence[str]:
    # A string is a sequence of strings, too: `stop="end"` would mean three stop strings.
    if isinstance(values, str):
        raise invalid_argument(path, f"{values!r} is one string, give a list of strings")
    return values


def input_message(value: t.Input) -> types_pb.Input:
    """The wire's form of an input."""
    match value:
        case str():
            return build(types_pb.Input, "input.", text=value)
        case t.RawPrompt(prompt):
            return build(types_pb.Input, "input.", raw_prompt=prompt)
        case t.TokenIds(ids):
            return types_pb.Input(token_ids=build(types_pb.TokenIds, "input.token_ids.", ids=ids))
        case Mapping():
            variables = build(types_pb.TemplateVariables, "input.variables.", values=value)
            return types_pb.Input(variables=variables)
        case Sequence() if value:
            messages = [
                build(types_pb.Message, f"input.messages[{i}].", role=m.role, content=m.content)
                for i, m in enumerate(value)
                if isinstance(m, t.Message)
            ]
            if len(messages) == len(value):
                return types_pb.Input(messages=types_pb.Conversation(messages=messages))
    raise invalid_argument(
        "input",
        f"{value!r:.100} is not an input; give a string, a mapping of template "
        "variables, a list of Message, RawPrompt or TokenIds",
    )


def generate_request(
    value: t.Input | t.GenerateRequest, options: t.GenerateOptions
) -> generation_pb.GenerateRequest:
    """The wire's form of a generation: of an input, or of a request with some fields replaced."""
    if isinstance(value, t.GenerateRequest):
        request = replace(value, **options)
    else:
        request = t.GenerateRequest(value, **options)
    sampling, stopping, output = request.sampling, request.stopping, request.output
    return build(
        generation_pb.GenerateRequest,
        adapter=request.adapter,
        input=input_message(request.input),
        sampling=build(
            types_pb.SamplingParams,
            "sampling.",
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            seed=sampling.seed,
            repetition_penalty=sampling.repetition_penalty,
            frequency_penalty=sampling.frequency_penalty,
            presence_penalty=sampling.presence_penalty,
            logit_bias=sampling.logit_bias,
        ),
        stopping=build(
            types_pb.StoppingParams,
            "stopping.",
            max_tokens=stopping.max_tokens,
            min_tokens=stopping.min_tokens,
            stop=_strings("stopping.stop", stopping.stop),
            ignore_eos=stopping.ignore_eos,
        ),
        output=build(
            types_pb.OutputOptions,
            "output.",
            logprobs=output.logprobs,
            top_logprobs=output.top_logprobs,
            prompt_logprobs=output.prompt_logprobs,
        ),
        structured_output=_structured_output(request.structured_output),
        num_samples=request.num_samples,
        adapters=[
            build(types_pb.WeightedAdapter, f"adapters[{i}].", adapter=a.adapter, weight=a.weight)
            for i, a in enumerate(request.adapters)
        ],
        priority=request.priority,
        tenant=request.tenant,
        request_id=request.request_id,
    )


def _structured_output(value: t.StructuredOutput | None) -> types_pb.StructuredOutput | None:
    if value is None:
        return None
    if (
        sum(c is not None for c in (value.json_schema, value.regex, value.choice, value.grammar))
        != 1
    ):
        raise invalid_argument(
            "structured_output", "set exactly one of json_schema, regex, choice and grammar"
        )
    choices = None
    if value.choice is not None:
        strings = _strings("structured_output.choice", value.choice)
        choices = build(types_pb.Choices, "structured_output.choice.", choices=strings)
    return build(
        types_pb.StructuredOutput,
        "structured_output.",
        json_schema=value.json_schema,
        regex=value.regex,
        choice=choices,
        grammar=value.grammar,
    )


def score_request(
    context: t.Input,
    continuations: Sequence[t.Continuation],
    *,
    adapter: str,
    token_logprobs: bool,
    priority: int | None,
    tenant: str,
    request_id: str,
) -> generation_pb.ScoreRequest:
    """The wire's form of a scoring."""
    if isinstance(continuations, str):
        raise invalid_argument("continuations", "give a list of continuations, not one string")
    return build(
        generation_pb.ScoreRequest,
        adapter=adapter,
        input=input_message(context),
        continuations=[_continuation(i, c) for i, c in enumerate(continuations)],
        token_logprobs=token_logprobs,
        priority=priority,
        tenant=tenant,
        request_id=request_id,
    )


def _continuation(index: int, value: t.Continuation) -> generation_pb.Continuation:
    path = f"continuations[{index}]."
    if isinstance(value, t.TokenIds):
        ids = build(types_pb.TokenIds, f"{path}token_ids.", ids=value.ids)
        return generation_pb.Continuation(token_ids=ids)
    return build(generation_pb.Continuation, path, text=value)


def classify_request(
    value: t.Input, *, adapter: str, priority: int | None, tenant: str, request_id: str
) -> generation_pb.ClassifyRequest:
    """The wire's form of a classification."""
    return build(
        generation_pb.ClassifyRequest,
        adapter=adapter,
        input=input_message(value),
        priority=priority,
        tenant=tenant,
        request_id=request_id,
    )


def tokenize_request(value: t.Input, adapter: str) -> generation_pb.TokenizeRequest:
    """The wire's form of a tokenization."""
    return build(generation_pb.TokenizeRequest, adapter=adapter, input=input_message(value))


def list_request(
    name_prefix: str, method: str, tier: t.Tier, page_size: int
) -> adapter_pb.ListAdaptersRequest:
    """The wire's form of a listing, without a page token."""
    return build(
        adapter_pb.ListAdaptersRequest,
        name_prefix=name_prefix,
        method=method,
        tier=types_pb.Tier.Value(f"TIER_{tier.name}"),
        page_size=page_size,
    )
