"""Answers of GenerationService: input forms, streams, scores, information."""

import math
from pathlib import Path
from typing import Any

import grpc
import pytest
from transformers import AutoTokenizer

from server.config import EngineConfig
from tests.server.rpc.conftest import CONTEXT, Server, StartServer, request_for
from tests.tiny import TEMPLATE, prompt_config
from understudy.artifact import base_fingerprint
from understudy.prompt import PromptTemplate
from understudy.v1 import adapter_service_pb2 as apb
from understudy.v1 import generation_service_pb2 as gpb
from understudy.v1 import types_pb2 as tpb


@pytest.fixture(scope="session")
def tokenizer(base: Path) -> Any:
    return AutoTokenizer.from_pretrained(base)


def tokenize(shared: Server, adapter: str = "", **form: Any) -> gpb.TokenizeResponse:
    request = gpb.TokenizeRequest(adapter=adapter, input=tpb.Input(**form))
    return shared.generation.Tokenize(request, timeout=30)


RENDERED = PromptTemplate(TEMPLATE).render({"input": "noon"})


@pytest.mark.parametrize("adapter", ["pirate", "polite", "pirate@latest"])
def test_text_goes_through_the_adapters_template(
    shared: Server, tokenizer: Any, adapter: str
) -> None:
    answer = tokenize(shared, adapter, text="noon")
    assert answer.prompt == RENDERED
    assert list(answer.token_ids) == tokenizer(RENDERED)["input_ids"]
    assert "".join(answer.tokens) == RENDERED


def test_base_takes_text_verbatim(shared: Server) -> None:
    assert tokenize(shared, text="noon").prompt == "noon"
    assert tokenize(shared, "base", text="noon").prompt == "noon"


def test_raw_prompt_skips_the_template(shared: Server) -> None:
    assert tokenize(shared, "pirate", raw_prompt="noon").prompt == "noon"


def test_variables_fill_the_template(shared: Server) -> None:
    variables = tpb.TemplateVariables(values={"input": "noon"})
    assert tokenize(shared, "pirate", variables=variables).prompt == RENDERED


def test_token_ids_are_verbatim(shared: Server) -> None:
    answer = tokenize(shared, "pirate", token_ids=tpb.TokenIds(ids=[5, 6]))
    assert list(answer.token_ids) == [5, 6]
    assert answer.prompt == ""


def test_every_form_of_one_prompt_gives_one_answer(shared: Server) -> None:
    ids = tokenize(shared, "pirate", text="noon").token_ids
    forms = [
        tpb.Input(text="noon"),
        tpb.Input(raw_prompt=RENDERED),
        tpb.Input(token_ids=tpb.TokenIds(ids=ids)),
    ]
    texts = {shared.generate(adapter="pirate", input=form).text for form in forms}
    assert len(texts) == 1


def test_long_prompts_are_encoded_beside_the_loop(shared: Server, tokenizer: Any) -> None:
    text = "the late train left a quiet town " * 200
    assert list(tokenize(shared, text=text).token_ids) == tokenizer(text)["input_ids"]


def test_adapters_differ_from_the_base(shared: Server) -> None:
    prompt = tpb.Input(raw_prompt="noon")
    texts = {shared.generate(adapter=name, input=prompt).text for name in ("", "pirate", "polite")}
    assert len(texts) == 3


def test_answer_names_what_answered(shared: Server) -> None:
    request = request_for(adapter="pirate", request_id="mine")
    answer = shared.generation.Generate(request, timeout=30)
    assert answer.request_id == "mine"
    assert answer.adapter.name == "pirate"
    assert len(answer.adapter.version) == 16
    assert answer.usage.num_prompt_tokens >= len(tokenize(shared, "pirate", text="noon").token_ids)
    assert answer.usage.num_completion_tokens == 8
    assert 0 < answer.usage.first_token_s <= answer.usage.total_s
    assert answer.generations[0].finish_reason == tpb.FINISH_REASON_LENGTH
    fresh = shared.generation.Generate(request_for(), timeout=30)
    assert len(fresh.request_id) == 32
    assert fresh.adapter == tpb.AdapterRef()


def test_stream_equals_unary(shared: Server) -> None:
    request = request_for(adapter="polite", output=tpb.OutputOptions(logprobs=True, top_logprobs=2))
    whole = shared.generation.Generate(request, timeout=30)
    events = list(
        shared.generation.GenerateStream(gpb.GenerateStreamRequest(request=request), timeout=30)
    )
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "started"
    assert kinds[-1] == "finished"
    assert set(kinds[1:-1]) == {"delta"}
    deltas = [event.delta for event in events[1:-1]]
    (generation,) = whole.generations
    assert "".join(delta.text for delta in deltas) == generation.text
    assert [t for delta in deltas for t in delta.token_ids] == list(generation.token_ids)
    streamed = [entry.logprob for delta in deltas for entry in delta.logprobs]
    assert streamed == pytest.approx([entry.logprob for entry in generation.logprobs], abs=1e-4)
    ending = events[-1].finished.generations[0]
    assert ending.finish_reason == generation.finish_reason
    assert (ending.text, list(ending.token_ids)) == ("", [])
    assert events[0].started.adapter == whole.adapter


def test_logprobs(shared: Server) -> None:
    output = tpb.OutputOptions(top_logprobs=3)
    generation = shared.generate(output=output)
    assert [entry.token_id for entry in generation.logprobs] == list(generation.token_ids)
    for entry in generation.logprobs:
        assert len(entry.top) == 3
        assert entry.top[0].token_id == entry.token_id
        assert entry.logprob == pytest.approx(entry.top[0].logprob)
        assert entry.logprob <= 0
        assert [top.logprob for top in entry.top] == sorted(
            (top.logprob for top in entry.top), reverse=True
        )


def test_seed_decides_the_sample(shared: Server) -> None:
    def sample(seed: int) -> str:
        sampling = tpb.SamplingParams(temperature=2, seed=seed)
        return shared.generate(sampling=sampling).text

    assert sample(2**64 - 1) == sample(2**64 - 1)
    assert len({sample(seed) for seed in range(4)}) > 1
    unseeded = tpb.SamplingParams(temperature=2)
    assert len({shared.generate(sampling=unseeded).text for _ in range(4)}) > 1


def score(shared: Server, *texts: str, context: str = "the late train", **fields: Any) -> Any:
    request = gpb.ScoreRequest(
        input=tpb.Input(raw_prompt=context),
        continuations=[gpb.Continuation(text=text) for text in texts],
        token_logprobs=True,
        **fields,
    )
    return shared.generation.Score(request, timeout=30)


def test_score_agrees_with_generation(shared: Server) -> None:
    prompt = tpb.Input(raw_prompt="the late train")
    output = tpb.OutputOptions(logprobs=True)
    generation = shared.generate(input=prompt, output=output)
    request = gpb.ScoreRequest(
        input=prompt,
        continuations=[gpb.Continuation(token_ids=tpb.TokenIds(ids=generation.token_ids))],
    )
    (scored,) = shared.generation.Score(request, timeout=30).scores
    assert scored.is_greedy
    assert scored.num_tokens == 8
    assert len(scored.tokens) == 0
    total = math.fsum(entry.logprob for entry in generation.logprobs)
    assert scored.logprob == pytest.approx(total, abs=1e-3)


def test_continuations_are_tokenized_jointly(shared: Server, tokenizer: Any) -> None:
    """`driver` after a context with a trailing space is the token of ` driver`."""
    whole = tokenizer("who had paid for both")["input_ids"]
    context = tokenizer("who had paid")["input_ids"]
    expected = whole[len(context) :]
    assert expected != tokenizer("for both")["input_ids"]
    for text, continuation in (("who had paid", " for both"), ("who had paid ", "for both")):
        answer = score(shared, continuation, context=text)
        assert [token.token_id for token in answer.scores[0].tokens] == expected
    assert answer.scores[0].logprob == pytest.approx(
        math.fsum(token.logprob for token in answer.scores[0].tokens)
    )


def test_moved_space_moves_for_every_continuation(shared: Server) -> None:
    moved = score(shared, "for both", "zz", context="who had paid ")
    plain = score(shared, " for both", " zz", context="who had paid")
    for one, other in zip(moved.scores, plain.scores, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


def test_order_and_number_of_continuations_do_not_matter(shared: Server) -> None:
    texts = [" noon", " before noon and", " x"]
    together = score(shared, *texts)
    for text, scored in zip(texts, together.scores, strict=True):
        (alone,) = score(shared, text).scores
        assert alone.logprob == pytest.approx(scored.logprob, abs=1e-3)


def test_model_info(shared: Server, base: Path) -> None:
    info = shared.generation.GetModelInfo(gpb.GetModelInfoRequest(), timeout=30)
    assert info.base_fingerprint == base_fingerprint(base)
    assert info.architecture == "LlamaForCausalLM"
    assert (info.quantization, info.dtype, info.device) == ("none", "float32", "cpu")
    assert info.max_context_tokens == CONTEXT
    assert info.vocab_size == 320
    assert info.max_batch_size == 8
    assert {"lora", "prompt_tuning"} <= set(info.adapter_methods)
    assert not info.HasField("bos_token_id")
    assert info.HasField("eos_token_id")
    assert info.eos_token_id == 0


def test_every_method_of_the_wire_is_served(shared: Server) -> None:
    answered: list[str] = []
    for service, module, stub in (
        ("GenerationService", gpb, shared.generation),
        ("AdapterService", apb, shared.adapters),
    ):
        for method in module.DESCRIPTOR.services_by_name[service].methods:
            message = getattr(module, method.input_type.name)()
            call = getattr(stub, method.name)
            try:
                if method.client_streaming:
                    list(call(iter(()), timeout=30))
                elif method.server_streaming:
                    list(call(message, timeout=30))
                else:
                    call(message, timeout=30)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    answered.append(f"{service}/{method.name}")
    assert answered == []


def test_usage_and_metrics_tell_of_the_prefix_cache(shared: Server) -> None:
    names = {
        "understudy_prefix_cache_queries_total": {},
        "understudy_prefix_cache_hits_total": {},
        "understudy_cached_prompt_tokens_total": {"adapter": "polite"},
    }
    request = request_for("a text that nobody has sent before " * 3, "polite")
    shared.generation.Generate(request, timeout=30)
    before = {name: shared.sample(name, **labels) for name, labels in names.items()}
    answer = shared.generation.Generate(request, timeout=30)
    after = {name: shared.sample(name, **labels) - before[name] for name, labels in names.items()}
    num_prompt, num_cached = answer.usage.num_prompt_tokens, answer.usage.num_cached_tokens
    num_virtual = prompt_config().num_virtual_tokens
    # All full blocks of 16, the last position at least left out.
    known = num_virtual + num_prompt
    expected = known - known % 16 if known % 16 else known - 1
    assert num_cached == expected - num_virtual
    assert list(after.values()) == [known, expected, num_cached]
    assert shared.sample("understudy_blocks_cached") > 0


def test_a_small_cache_is_the_context(start_server: StartServer) -> None:
    server = start_server(engine=EngineConfig(num_blocks=4, block_size=16))
    info = server.generation.GetModelInfo(gpb.GetModelInfoRequest(), timeout=30)
    assert info.max_context_tokens == 64
    with pytest.raises(grpc.RpcError) as caught:
        server.generation.Generate(request_for("z" * 200), timeout=30)
    assert "context of 64" in caught.value.details()


def test_tokens_of_a_text_far_beyond_the_context(shared: Server) -> None:
    answer = tokenize(shared, text="z!" * 4000)
    assert len(answer.tokens) == len(answer.token_ids) > CONTEXT
    assert "".join(answer.tokens) == "z!" * 4000
