"""Several samples, sampling options and prompt log-probabilities over the wire."""

from typing import Any

import grpc
import pytest

from server.config import LimitsConfig
from tests.server.rpc.conftest import Server, StartServer, request_for
from understudy.v1 import generation_service_pb2 as gpb
from understudy.v1 import types_pb2 as tpb

SAMPLING = tpb.SamplingParams(temperature=1.5, seed=3, min_p=0.01, repetition_penalty=1.1)


def answer(shared: Server, **fields: Any) -> gpb.GenerateResponse:
    return shared.generation.Generate(request_for(**fields), timeout=30)


def test_samples_in_order(shared: Server) -> None:
    several = answer(shared, adapter="pirate", sampling=SAMPLING, num_samples=5)
    one = answer(shared, adapter="pirate", sampling=SAMPLING)
    assert [generation.index for generation in several.generations] == list(range(5))
    assert len({generation.text for generation in several.generations}) == 5
    assert several.generations[0] == one.generations[0]
    assert several.usage.num_completion_tokens == 5 * 8
    assert several.usage.num_prompt_tokens == one.usage.num_prompt_tokens
    again = answer(shared, adapter="pirate", sampling=SAMPLING, num_samples=5)
    assert again.generations == several.generations


def test_a_stream_tags_its_samples(shared: Server) -> None:
    request = request_for(
        adapter="polite",
        sampling=SAMPLING,
        num_samples=3,
        output=tpb.OutputOptions(logprobs=True),
    )
    whole = shared.generation.Generate(request, timeout=30)
    *events, last = shared.generation.GenerateStream(
        gpb.GenerateStreamRequest(request=request), timeout=30
    )
    deltas = [event.delta for event in events[1:]]
    assert {delta.index for delta in deltas} == {0, 1, 2}
    for generation in whole.generations:
        own = [delta for delta in deltas if delta.index == generation.index]
        assert "".join(delta.text for delta in own) == generation.text
        assert [t for delta in own for t in delta.token_ids] == list(generation.token_ids)
        assert sum(len(delta.logprobs) for delta in own) == 8
    endings = last.finished.generations
    assert [ending.index for ending in endings] == [0, 1, 2]
    assert all(ending.finish_reason == tpb.FINISH_REASON_LENGTH for ending in endings)
    assert last.finished.usage.num_completion_tokens == 24


def test_batches_have_samples(shared: Server) -> None:
    request = request_for(sampling=SAMPLING, num_samples=2)
    items = [gpb.BatchGenerateRequest(key=str(i), request=request) for i in range(6)]
    answers = list(shared.generation.BatchGenerate(iter(items), timeout=60))
    expected = answer(shared, sampling=SAMPLING, num_samples=2).generations
    assert len(answers) == 6
    assert all(item.response.generations == expected for item in answers)


def test_a_cancelled_stream_ends_every_sample(shared: Server) -> None:
    stopping = tpb.StoppingParams(max_tokens=1500, ignore_eos=True)
    request = request_for(sampling=SAMPLING, num_samples=6, stopping=stopping)
    stream = shared.generation.GenerateStream(gpb.GenerateStreamRequest(request=request))
    for _ in range(20):
        next(stream)
    stream.cancel()
    # Answered behind it, in an engine that has dropped all six.
    while shared.app.engine.stats().num_running:
        answer(shared)
    assert shared.app.engine.stats().num_used_blocks == 0


@pytest.mark.parametrize("adapter", ["", "pirate", "polite"])
def test_prompt_logprobs_agree_with_score(shared: Server, adapter: str) -> None:
    output = tpb.OutputOptions(prompt_logprobs=True, top_logprobs=2)
    ids = [40, 41, 42, 43, 44, 45]
    prompt = tpb.Input(token_ids=tpb.TokenIds(ids=ids))
    found = answer(shared, adapter=adapter, input=prompt, output=output).prompt_logprobs
    # Nothing stands before the first token but the virtual ones of a soft prompt.
    assert [entry.token_id for entry in found] == ids[adapter != "polite" :]
    request = gpb.ScoreRequest(
        adapter=adapter,
        input=tpb.Input(token_ids=tpb.TokenIds(ids=ids[:1])),
        continuations=[gpb.Continuation(token_ids=tpb.TokenIds(ids=ids[1:]))],
        token_logprobs=True,
    )
    (score,) = shared.generation.Score(request, timeout=30).scores
    assert [entry.logprob for entry in found[-5:]] == pytest.approx(
        [token.logprob for token in score.tokens], rel=1e-4
    )
    tokens = shared.generation.Tokenize(gpb.TokenizeRequest(input=prompt), timeout=30).tokens
    assert [entry.token for entry in found[-5:]] == tokens[1:]
    for entry in found:
        assert len(entry.top) == 2
        assert entry.top[0].logprob >= entry.top[1].logprob


def test_a_long_answer_is_built_beside_the_loop(shared: Server) -> None:
    prompt = tpb.Input(token_ids=tpb.TokenIds(ids=[5, 6, 7] * 300))
    output = tpb.OutputOptions(prompt_logprobs=True, top_logprobs=20)
    found = answer(shared, input=prompt, output=output)
    assert len(found.prompt_logprobs) == 899
    assert sum(len(entry.top) for entry in found.prompt_logprobs) == 899 * 20


def test_no_log_probabilities_unless_asked_for(shared: Server) -> None:
    found = answer(shared)
    assert not found.prompt_logprobs
    assert not found.generations[0].logprobs
    only_prompt = answer(shared, output=tpb.OutputOptions(prompt_logprobs=True))
    assert only_prompt.prompt_logprobs
    assert not only_prompt.generations[0].logprobs


def test_every_option_reaches_the_draw(shared: Server) -> None:
    stopping = tpb.StoppingParams(max_tokens=60, ignore_eos=True)
    options: list[dict[str, Any]] = [
        {},
        {"min_p": 0.5},
        {"repetition_penalty": 1.5},
        {"frequency_penalty": 1.5},
        {"presence_penalty": -2.0},
        {"logit_bias": {65: 3.0}},
    ]
    texts = set()
    for extra in options:
        sampling = tpb.SamplingParams(temperature=0.7, seed=1, **extra)
        texts.add(answer(shared, sampling=sampling, stopping=stopping).generations[0].text)
    assert len(texts) == len(options)


def test_limits(start_server: StartServer) -> None:
    server = start_server(limits=LimitsConfig(max_samples=2, max_logprobs=100))
    for field, fields in (
        ("num_samples: is 3, must be in [1, 2]", {"num_samples": 3}),
        (
            # 2 samples of 8 tokens with 6 alternatives.
            "output: asks for up to 112 log-probabilities, at most 100 are allowed",
            {"num_samples": 2, "output": tpb.OutputOptions(top_logprobs=6)},
        ),
        (
            "output: asks for up to 120 log-probabilities",
            {
                "input": tpb.Input(token_ids=tpb.TokenIds(ids=[5] * 40)),
                "output": tpb.OutputOptions(prompt_logprobs=True, top_logprobs=1),
                "stopping": tpb.StoppingParams(max_tokens=20),
            },
        ),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            answer(server, **fields)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details().startswith(field)
    assert len(answer(server, num_samples=2).generations) == 2


def test_a_stream_has_no_place_for_prompt_logprobs(shared: Server) -> None:
    request = request_for(output=tpb.OutputOptions(prompt_logprobs=True))
    with pytest.raises(grpc.RpcError) as caught:
        list(shared.generation.GenerateStream(gpb.GenerateStreamRequest(request=request)))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "use Generate or BatchGenerate" in caught.value.details()
