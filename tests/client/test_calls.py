"""Unary calls: what goes over the wire, deadlines, retries, errors."""

import _thread
import math
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2

import understudy
from understudy import (
    Client,
    GenerateRequest,
    Message,
    OutputOptions,
    RawPrompt,
    RetryPolicy,
    SamplingParams,
    StoppingParams,
    StructuredOutput,
    Tier,
    TokenIds,
    WeightedAdapter,
)
from understudy.v1 import adapter_service_pb2 as adapter_pb
from understudy.v1 import generation_service_pb2 as generation_pb
from understudy.v1 import types_pb2 as types_pb


def retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    delay = duration_pb2.Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def test_generate_sends_and_returns_every_field(scripted: Any, client: Client, wire: Any) -> None:
    scripted.handlers["Generate"] = wire.echo
    result = client.generate(
        "hello",
        adapter="a@latest",
        sampling=SamplingParams(temperature=0.5, top_k=3, seed=9, logit_bias={5: -1.0}),
        stopping=StoppingParams(max_tokens=8, stop=["\n", "END"]),
        output=OutputOptions(logprobs=True, top_logprobs=2),
        structured_output=StructuredOutput(choice=["yes", "no"]),
        num_samples=2,
        adapters=[WeightedAdapter("b", 0.5), WeightedAdapter("c")],
        priority=-1,
        tenant="t",
        request_id="id",
    )
    assert result.text == "hello"
    assert result.adapter == understudy.AdapterRef("a", "v")
    assert result.generations[0].token_ids == (1, 2)
    assert result.generations[0].finish_reason is understudy.FinishReason.EOS
    assert result.usage.queue_s == 0.25
    sent = scripted.requests["Generate"][0]
    assert sent.adapter == "a@latest"
    assert sent.sampling.temperature == 0.5
    assert sent.sampling.seed == 9
    assert not sent.sampling.HasField("top_p")
    assert dict(sent.sampling.logit_bias) == {5: -1.0}
    assert list(sent.stopping.stop) == ["\n", "END"]
    assert sent.output.top_logprobs == 2
    assert list(sent.structured_output.choice.choices) == ["yes", "no"]
    assert (sent.num_samples, sent.priority, sent.tenant) == (2, -1, "t")
    assert [a.adapter for a in sent.adapters] == ["b", "c"]
    assert not sent.adapters[1].HasField("weight")


def test_zero_is_sent_and_absent_is_not(scripted: Any, client: Client, wire: Any) -> None:
    scripted.handlers["Generate"] = wire.echo
    client.generate("x", sampling=SamplingParams(temperature=0.0))
    sent = scripted.requests["Generate"][0]
    assert sent.sampling.HasField("temperature")
    assert not sent.sampling.HasField("seed")
    assert not sent.HasField("num_samples")
    assert not sent.HasField("structured_output")


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("text", types_pb.Input(text="text")),
        (
            {"question": "q", "style": "s"},
            types_pb.Input(
                variables=types_pb.TemplateVariables(values={"question": "q", "style": "s"})
            ),
        ),
        (
            [Message("system", "be brief"), Message("user", "hi")],
            types_pb.Input(
                messages=types_pb.Conversation(
                    messages=[
                        types_pb.Message(role="system", content="be brief"),
                        types_pb.Message(role="user", content="hi"),
                    ]
                )
            ),
        ),
        (RawPrompt("raw"), types_pb.Input(raw_prompt="raw")),
        (TokenIds([1, 2, 3]), types_pb.Input(token_ids=types_pb.TokenIds(ids=[1, 2, 3]))),
    ],
)
def test_input_forms(
    scripted: Any, client: Client, value: understudy.Input, form: types_pb.Input
) -> None:
    scripted.handlers["Tokenize"] = lambda request, _: generation_pb.TokenizeResponse()
    client.tokenize(value)
    assert scripted.requests["Tokenize"][0].input == form


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (GenerateRequest("x", sampling=SamplingParams(top_k=-1)), "sampling.top_k"),
        (GenerateRequest("x", stopping=StoppingParams(max_tokens=2**40)), "stopping.max_tokens"),
        (GenerateRequest("x", stopping=StoppingParams(stop="END")), "stopping.stop"),
        (GenerateRequest("x", num_samples=-2), "num_samples"),
        (GenerateRequest("\udcff"), "input.text"),
        (GenerateRequest(TokenIds([1, -1])), "input.token_ids.ids"),
        (GenerateRequest({"a": 1}), "input.variables.values"),
        (GenerateRequest([]), "input"),
        (GenerateRequest(["a"]), "input"),
        (GenerateRequest(7), "input"),
        (GenerateRequest("x", adapter=3), "adapter"),
        (GenerateRequest("x", structured_output=StructuredOutput()), "structured_output"),
    ],
)
def test_wrong_values_name_their_field_and_are_not_sent(
    scripted: Any, client: Client, request_: GenerateRequest, field: str
) -> None:
    with pytest.raises(understudy.InvalidArgumentError, match=field) as caught:
        client.generate(request_)
    assert [v.field for v in caught.value.violations] == [field]
    assert scripted.count("Generate") == 0


@pytest.mark.parametrize("timeout", [0, -1.0, math.nan])
def test_wrong_timeouts_are_refused(client: Client, timeout: float) -> None:
    with pytest.raises(understudy.InvalidArgumentError, match="timeout"):
        client.model_info(timeout=timeout)


@pytest.mark.parametrize("address", ["", "http://localhost:50051"])
def test_wrong_addresses_are_refused(address: str) -> None:
    with pytest.raises(understudy.InvalidArgumentError, match="HOST:PORT"):
        Client(address)


def test_deadline_is_60_s_unless_said_otherwise(scripted: Any, wire: Any) -> None:
    scripted.handlers["Generate"] = wire.echo
    with Client(scripted.address) as client:
        client.generate("x")
        client.generate("x", timeout=5)
        client.generate("x", timeout=None)
    default, given, none = scripted.time_left_s["Generate"]
    assert 50 < default < 61
    assert 1 < given < 6
    assert none is None or none > 1e6


def test_deadline_passes(scripted: Any, client: Client) -> None:
    gone = threading.Event()

    def hang(_: Any, context: grpc.ServicerContext) -> Any:
        context.add_callback(gone.set)
        gone.wait(10)
        return generation_pb.GenerateResponse()

    scripted.handlers["Generate"] = hang
    with pytest.raises(understudy.DeadlineExceededError):
        client.generate("x", timeout=0.2)
    assert gone.wait(5)
    assert scripted.count("Generate") == 1


def test_interrupt_cancels_the_call(scripted: Any, client: Client) -> None:
    """Also while the exception is held, so that nothing is collected."""
    gone = threading.Event()

    def hang(_: Any, context: grpc.ServicerContext) -> None:
        context.add_callback(gone.set)
        # Not while the call is still being made.
        while not _main_waits():
            time.sleep(0.005)
        _thread.interrupt_main()
        gone.wait(120)

    scripted.handlers["Generate"] = hang
    with pytest.raises(KeyboardInterrupt) as held:
        client.generate("x", timeout=None)
    assert gone.wait(60)
    assert held.value


def _main_waits() -> bool:
    """Whether the main thread waits for something, an answer."""
    identity = threading.main_thread().ident
    assert identity is not None
    return sys._current_frames()[identity].f_code is threading.Condition.wait.__code__


def test_unavailable_is_tried_again(scripted: Any, client: Client, wire: Any) -> None:
    scripted.handlers["Generate"] = wire.failing_first(2, wire.echo, wire.unavailable)
    assert client.generate("x").text == "x"
    assert scripted.count("Generate") == 3


def test_attempts_run_out(scripted: Any, client: Client, wire: Any) -> None:
    scripted.handlers["Generate"] = wire.unavailable
    with pytest.raises(understudy.UnavailableError, match="draining"):
        client.generate("x")
    assert scripted.count("Generate") == 4


def test_retry_waits_as_long_as_the_server_says(scripted: Any, client: Client, wire: Any) -> None:
    def full(_: Any, context: grpc.ServicerContext) -> None:
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
        wire.abort(context, code, "queue full", retry_info(0.3))

    scripted.handlers["Generate"] = wire.failing_first(1, wire.echo, full)
    began = time.monotonic()
    assert client.generate("x").text == "x"
    assert 0.3 <= time.monotonic() - began < 3


def test_no_wait_beyond_the_deadline(scripted: Any, client: Client, wire: Any) -> None:
    def full(_: Any, context: grpc.ServicerContext) -> None:
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
        wire.abort(context, code, "queue full", retry_info(30))

    scripted.handlers["Generate"] = full
    began = time.monotonic()
    with pytest.raises(understudy.ResourceExhaustedError) as caught:
        client.generate("x", timeout=5)
    assert time.monotonic() - began < 3
    assert caught.value.retry_delay_s == 30
    assert scripted.count("Generate") == 1


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.RESOURCE_EXHAUSTED,  # without RetryInfo: a message over the limit
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    ],
)
def test_nothing_else_is_tried_again(
    scripted: Any, client: Client, wire: Any, code: grpc.StatusCode
) -> None:
    scripted.handlers["Generate"] = lambda _, context: wire.abort(context, code, "no")
    with pytest.raises(understudy.UnderstudyError) as caught:
        client.generate("x")
    assert caught.value.code is code
    assert scripted.count("Generate") == 1


def test_unload_is_never_tried_again(scripted: Any, client: Client, wire: Any) -> None:
    scripted.handlers["UnloadAdapter"] = wire.unavailable
    with pytest.raises(understudy.UnavailableError):
        client.adapters.unload("a")
    assert scripted.count("UnloadAdapter") == 1


def test_retries_can_be_turned_off(scripted: Any, wire: Any) -> None:
    scripted.handlers["Generate"] = wire.unavailable
    with (
        Client(scripted.address, retry=RetryPolicy(max_attempts=1)) as client,
        pytest.raises(understudy.UnavailableError),
    ):
        client.generate("x")
    assert scripted.count("Generate") == 1


def test_nobody_listens() -> None:
    with (
        Client("127.0.0.1:1", retry=RetryPolicy(max_attempts=2)) as client,
        pytest.raises(understudy.UnavailableError),
    ):
        client.model_info(timeout=5)


def test_metadata_goes_with_every_call(scripted: Any) -> None:
    scripted.handlers["GetModelInfo"] = lambda *_: generation_pb.GetModelInfoResponse()
    with Client(scripted.address, metadata=[("authorization", "Bearer x")]) as client:
        client.model_info()
    assert scripted.metadata["GetModelInfo"]["authorization"] == "Bearer x"
    assert "understudy-python" in scripted.metadata["GetModelInfo"]["user-agent"]


def test_score(scripted: Any, client: Client) -> None:
    scores = [
        generation_pb.ContinuationScore(logprob=-1.5, num_tokens=2, is_greedy=True),
        generation_pb.ContinuationScore(logprob=-3.0, num_tokens=1),
    ]
    scripted.handlers["Score"] = lambda *_: generation_pb.ScoreResponse(scores=scores)
    result = client.score("context", [" good", TokenIds([4])], adapter="a", token_logprobs=True)
    assert [s.logprob for s in result.scores] == [-1.5, -3.0]
    assert result.scores[0].is_greedy
    sent = scripted.requests["Score"][0]
    assert sent.continuations[0].text == " good"
    assert list(sent.continuations[1].token_ids.ids) == [4]
    assert sent.token_logprobs
    with pytest.raises(understudy.InternalError, match="2 scores for 1 continuations"):
        client.score("context", ["one"])
    with pytest.raises(understudy.InvalidArgumentError, match="continuations"):
        client.score("context", "one")


def test_classify_and_model_info(scripted: Any, client: Client) -> None:
    labels = [generation_pb.LabelScore(label="pos", probability=0.75, logit=1.0)]
    scripted.handlers["Classify"] = lambda *_: generation_pb.ClassifyResponse(labels=labels)
    scripted.handlers["GetModelInfo"] = lambda *_: generation_pb.GetModelInfoResponse(
        base_model="nano", max_context_tokens=512, adapter_methods=["lora"]
    )
    result = client.classify("x", adapter="a", priority=3, tenant="t", request_id="r")
    assert result.labels[0].label == "pos"
    sent = scripted.requests["Classify"][0]
    assert (sent.adapter, sent.priority, sent.tenant, sent.request_id) == ("a", 3, "t", "r")
    info = client.model_info()
    assert (info.base_model, info.max_context_tokens) == ("nano", 512)
    assert info.adapter_methods == ("lora",)


def test_empty_answer_is_out_of_protocol(scripted: Any, client: Client) -> None:
    scripted.handlers["Generate"] = lambda *_: generation_pb.GenerateResponse()
    with pytest.raises(understudy.InternalError, match="without any sample"):
        client.generate("x")


def pages(request: adapter_pb.ListAdaptersRequest, _: Any) -> adapter_pb.ListAdaptersResponse:
    """Five adapters, two a page."""
    begin = int(request.page_token or 0)
    names = ["a", "b", "c", "d", "e"][begin : begin + 2]
    return adapter_pb.ListAdaptersResponse(
        adapters=[types_pb.Adapter(name=name, tier=types_pb.TIER_DEVICE) for name in names],
        next_page_token=str(begin + 2) if begin + 2 < 5 else "",
    )


def test_list_pages(scripted: Any, client: Client) -> None:
    scripted.handlers["ListAdapters"] = pages
    adapters = client.adapters.list(name_prefix="p", tier=Tier.DEVICE, page_size=2)
    assert scripted.count("ListAdapters") == 0
    assert next(adapters).name == "a"
    assert scripted.count("ListAdapters") == 1
    rest = list(adapters)
    assert [a.name for a in rest] == ["b", "c", "d", "e"]
    assert rest[0].tier is Tier.DEVICE
    assert rest[0].loaded_at is None
    tokens = [r.page_token for r in scripted.requests["ListAdapters"]]
    assert tokens[1:] == ["2", "4"]
    assert all(r.name_prefix == "p" for r in scripted.requests["ListAdapters"])


def test_adapter_methods(scripted: Any, client: Client) -> None:
    adapter = types_pb.Adapter(name="a", version="v", tier=types_pb.TIER_HOST)
    adapter.loaded_at.FromDatetime(datetime(2030, 1, 2, tzinfo=UTC))
    scripted.handlers |= {
        "GetAdapter": lambda *_: adapter_pb.GetAdapterResponse(
            adapter=adapter, manifest_json='{"rank": 8}', evals_json={"e.json": "[1]"}
        ),
        "LoadAdapter": lambda *_: adapter_pb.LoadAdapterResponse(adapter=adapter, load_s=0.5),
        "UnloadAdapter": lambda *_: adapter_pb.UnloadAdapterResponse(num_leases=3),
        "PinAdapter": lambda *_: adapter_pb.PinAdapterResponse(adapter=adapter),
        "SetAlias": lambda *_: adapter_pb.SetAliasResponse(adapter=adapter),
    }
    details = client.adapters.get("a@v")
    assert details.manifest == {"rank": 8}
    assert details.evals == {"e.json": [1]}
    assert details.adapter.loaded_at == datetime(2030, 1, 2, tzinfo=UTC)
    assert client.adapters.load("a", source="dir", pin=True).load_s == 0.5
    assert client.adapters.unload("a") == 3
    assert client.adapters.pin("a", pinned=False).version == "v"
    assert client.adapters.set_alias("a", "stable", "v").name == "a"
    assert scripted.requests["LoadAdapter"][0] == adapter_pb.LoadAdapterRequest(
        name="a", source="dir", pin=True
    )
    assert scripted.requests["SetAlias"][0] == adapter_pb.SetAliasRequest(
        name="a", alias="stable", version="v"
    )
