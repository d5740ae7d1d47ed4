"""Whatever the fields hold, a request is answered or refused by name, never an internal error."""

from typing import Any

import grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.rpc.conftest import Server
from understudy.v1 import generation_service_pb2 as gpb
from understudy.v1 import types_pb2 as tpb

EXPECTED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
}
FLOATS = st.floats(width=32)
UINT32 = st.integers(0, 2**32 - 1)
# What protobuf can carry: no lone surrogates.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
TOKEN_IDS = st.lists(st.one_of(st.integers(0, 400), UINT32), max_size=6).map(
    lambda ids: tpb.TokenIds(ids=ids)
)
ADAPTERS = st.one_of(st.sampled_from(["", "base", "pirate", "polite", "pirate@latest"]), TEXT)
SANE = st.one_of(st.none(), st.just(0.7))
# Seldom enough that a request of many such fields is sometimes taken.
NUMBERS = st.one_of(*[SANE] * 4, FLOATS)
INPUTS = st.one_of(
    st.builds(tpb.Input, text=TEXT),
    st.builds(tpb.Input, raw_prompt=TEXT),
    st.builds(tpb.Input, token_ids=TOKEN_IDS),
    st.builds(
        tpb.Input,
        variables=st.builds(
            tpb.TemplateVariables, values=st.dictionaries(st.just("input") | TEXT, TEXT, max_size=2)
        ),
    ),
    st.just(tpb.Input()),
)
SAMPLING = st.builds(
    tpb.SamplingParams,
    temperature=NUMBERS,
    top_k=st.none() | UINT32,
    top_p=NUMBERS,
    min_p=NUMBERS,
    seed=st.none() | st.integers(0, 2**64 - 1),
    repetition_penalty=NUMBERS,
    frequency_penalty=NUMBERS,
    presence_penalty=NUMBERS,
    logit_bias=st.dictionaries(st.integers(0, 330), NUMBERS.map(lambda x: x or 0), max_size=3),
)
STOPPING = st.builds(
    tpb.StoppingParams,
    max_tokens=st.integers(0, 6),
    min_tokens=st.none() | UINT32 | st.integers(0, 3),
    stop=st.lists(TEXT, max_size=3),
    ignore_eos=st.booleans(),
)
STRUCTURED_OUTPUT = st.one_of(
    st.builds(tpb.StructuredOutput, json_schema=TEXT),
    st.builds(tpb.StructuredOutput, regex=TEXT),
    st.builds(tpb.StructuredOutput, grammar=TEXT | TEXT.map(lambda text: f"start: {text}")),
    st.builds(
        tpb.StructuredOutput,
        choice=st.builds(tpb.Choices, choices=st.lists(TEXT, max_size=3)),
    ),
    st.just(tpb.StructuredOutput()),
)
REQUESTS = st.builds(
    gpb.GenerateRequest,
    adapter=ADAPTERS,
    input=INPUTS,
    sampling=SAMPLING,
    stopping=STOPPING,
    output=st.builds(
        tpb.OutputOptions,
        logprobs=st.booleans(),
        top_logprobs=st.integers(0, 20) | UINT32,
        prompt_logprobs=st.booleans(),
    ),
    structured_output=st.none() | STRUCTURED_OUTPUT,
    num_samples=st.none() | st.integers(0, 4) | UINT32,
    priority=st.none() | st.integers(-(2**31), 2**31 - 1),
    tenant=TEXT,
    request_id=TEXT,
)
SCORES = st.builds(
    gpb.ScoreRequest,
    adapter=ADAPTERS,
    input=INPUTS,
    continuations=st.lists(
        st.one_of(
            st.builds(gpb.Continuation, text=TEXT),
            st.builds(gpb.Continuation, token_ids=TOKEN_IDS),
        ),
        max_size=4,
    ),
    token_logprobs=st.booleans(),
)
MODEST = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def answered(call: Any, request: Any) -> Any:
    """The answer, or None if the request was refused as it should be."""
    answer, future = None, call.future(request, timeout=60)
    if future.code() is grpc.StatusCode.OK:
        answer = future.result()
    else:
        assert future.code() in EXPECTED, future.details()
    return answer


@MODEST
@given(request=REQUESTS)
def test_generate(shared: Server, request: gpb.GenerateRequest) -> None:
    answer = answered(shared.generation.Generate, request)
    if answer is None:
        return
    assert len(answer.generations) == (request.num_samples or 1)
    for generation in answer.generations:
        assert 1 <= len(generation.token_ids) <= request.stopping.max_tokens
        for stop in request.stopping.stop:
            assert request.stopping.min_tokens or stop not in generation.text


@MODEST
@given(request=SCORES)
def test_score(shared: Server, request: gpb.ScoreRequest) -> None:
    answer = answered(shared.generation.Score, request)
    if answer is None:
        return
    assert len(answer.scores) == len(request.continuations)
    assert all(score.logprob <= 0 and score.num_tokens >= 1 for score in answer.scores)
