"""What clients get wrong: the status, the field, the remedy; the server unharmed."""

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.server.rpc.conftest import CONTEXT, Server, request_for
from understudy.v1 import generation_service_pb2 as gpb
from understudy.v1 import types_pb2 as tpb

NAN, INF = float("nan"), float("inf")


def refused(call: Any, request: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=30)
    return caught.value


def violations(error: Any) -> list[str]:
    """Fields that the error's BadRequest names."""
    fields: list[str] = []
    for packed in rpc_status.from_call(error).details:
        bad = error_details_pb2.BadRequest()
        if packed.Unpack(bad):
            fields += [violation.field for violation in bad.field_violations]
    return fields


@pytest.fixture(autouse=True)
def unharmed(shared: Server) -> Any:
    before = [shared.generate(adapter=name).text for name in ("", "pirate")]
    yield
    assert [shared.generate(adapter=name).text for name in ("", "pirate")] == before
    assert shared.app.engine.stats().num_running == 0


@pytest.mark.parametrize(
    ("field", "sampling"),
    [
        ("sampling.temperature", {"temperature": -0.1}),
        ("sampling.temperature", {"temperature": 101}),
        ("sampling.temperature", {"temperature": NAN}),
        ("sampling.temperature", {"temperature": INF}),
        ("sampling.top_p", {"top_p": 0}),
        ("sampling.top_p", {"top_p": 1.01}),
        ("sampling.top_p", {"top_p": NAN}),
        ("sampling.min_p", {"min_p": -1}),
        ("sampling.min_p", {"min_p": NAN}),
        ("sampling.repetition_penalty", {"repetition_penalty": 0}),
        ("sampling.repetition_penalty", {"repetition_penalty": INF}),
        ("sampling.frequency_penalty", {"frequency_penalty": 3}),
        ("sampling.presence_penalty", {"presence_penalty": NAN}),
    ],
)
def test_sampling_out_of_range(shared: Server, field: str, sampling: dict[str, float]) -> None:
    request = request_for(sampling=tpb.SamplingParams(**sampling))
    error = refused(shared.generation.Generate, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith(f"{field}: is {next(iter(sampling.values())):g}, must be")
    assert violations(error) == [field]


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("stopping.max_tokens", {"stopping": tpb.StoppingParams(max_tokens=0)}),
        ("stopping.min_tokens", {"stopping": tpb.StoppingParams(max_tokens=1, min_tokens=2)}),
        ("stopping.stop[1]", {"stopping": tpb.StoppingParams(stop=["a", ""])}),
        ("stopping.stop[0]", {"stopping": tpb.StoppingParams(stop=["a" * 257])}),
        ("stopping.stop", {"stopping": tpb.StoppingParams(stop=["a"] * 17)}),
        ("output.top_logprobs", {"output": tpb.OutputOptions(logprobs=True, top_logprobs=21)}),
        ("num_samples", {"num_samples": 0}),
        ("num_samples", {"num_samples": 129}),
        ("sampling.logit_bias[5]", {"sampling": tpb.SamplingParams(logit_bias={5: NAN})}),
        ("sampling.logit_bias[5]", {"sampling": tpb.SamplingParams(logit_bias={5: -INF})}),
        ("sampling.logit_bias[320]", {"sampling": tpb.SamplingParams(logit_bias={320: 1.0})}),
        ("tenant", {"tenant": "x" * 129}),
        ("request_id", {"request_id": "line\nbreak"}),
        ("input", {"input": tpb.Input()}),
        ("input.text", {"input": tpb.Input(text="")}),
        ("input.token_ids", {"input": tpb.Input(token_ids=tpb.TokenIds())}),
        ("input.token_ids.ids[1]", {"input": tpb.Input(token_ids=tpb.TokenIds(ids=[1, 99999]))}),
        ("input.variables", {"input": tpb.Input(variables=tpb.TemplateVariables(values={}))}),
        ("input.messages", {"input": tpb.Input(messages=tpb.Conversation())}),
        (
            "input.messages",
            {"input": tpb.Input(messages=tpb.Conversation(messages=[tpb.Message(role="user")]))},
        ),
        (
            "input.messages.messages[0].role",
            {"input": tpb.Input(messages=tpb.Conversation(messages=[tpb.Message(role="root")]))},
        ),
        ("adapter", {"adapter": "../../etc/passwd"}),
        ("adapter", {"adapter": "pirаte"}),
        ("adapter", {"adapter": "pirate@../x"}),
    ],
)
def test_field_out_of_range(shared: Server, field: str, fields: dict[str, Any]) -> None:
    request = request_for(**fields)
    error = refused(shared.generation.Generate, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith(f"{field}: ")
    assert violations(error) == [field]


def test_neutral_values_change_nothing(shared: Server) -> None:
    neutral = tpb.SamplingParams(
        min_p=0, repetition_penalty=1, frequency_penalty=0, presence_penalty=0, top_k=0, top_p=1
    )
    text = shared.generate(sampling=neutral, num_samples=1).text
    assert text == shared.generate().text


def test_unknown_adapter_names_the_close_ones(shared: Server) -> None:
    error = refused(shared.generation.Generate, request_for(adapter="pirates"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details().startswith("adapter 'pirates' not found; did you mean pirate")
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(error).details[0].Unpack(info)
    assert info.reason == "ADAPTER_NOT_FOUND"
    assert info.metadata["close"].startswith("pirate")


def test_unknown_version_names_the_close_ones(shared: Server) -> None:
    error = refused(shared.generation.Generate, request_for(adapter="pirate@lates"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert "did you mean pirate@latest?" in error.details()


@pytest.mark.parametrize("adapter", ["", "polite"])
def test_prompt_longer_than_the_context(shared: Server, adapter: str) -> None:
    ids = [5] * (CONTEXT + 7)
    request = request_for(adapter=adapter, input=tpb.Input(token_ids=tpb.TokenIds(ids=ids)))
    error = refused(shared.generation.Generate, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(CONTEXT + 7) in error.details()
    assert str(CONTEXT) in error.details()


@pytest.mark.parametrize(
    ("field", "continuations"),
    [
        ("continuations", []),
        ("continuations", [gpb.Continuation(text="a")] * 257),
        ("continuations[0]", [gpb.Continuation()]),
        ("continuations[1].text", [gpb.Continuation(text="a"), gpb.Continuation(text="")]),
        (
            "continuations[0].token_ids.ids[0]",
            [gpb.Continuation(token_ids=tpb.TokenIds(ids=[70000]))],
        ),
    ],
)
def test_continuations(shared: Server, field: str, continuations: list[Any]) -> None:
    request = gpb.ScoreRequest(input=tpb.Input(text="noon"), continuations=continuations)
    error = refused(shared.generation.Score, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith(f"{field}: ")


def test_template_takes_other_variables(shared: Server) -> None:
    variables = tpb.TemplateVariables(values={"note": "noon"})
    request = request_for(adapter="pirate", input=tpb.Input(variables=variables))
    error = refused(shared.generation.Generate, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "input.variables: " in error.details()
    assert "missing input; unknown note" in error.details()


def test_a_long_text_beyond_ascii_keeps_its_status(shared: Server) -> None:
    variables = tpb.TemplateVariables(values={"船" * 5000: "noon"})
    request = request_for(adapter="pirate", input=tpb.Input(variables=variables))
    error = refused(shared.generation.Generate, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations(error) == ["input.variables"]
    assert "missing input; unknown 船船" in error.details()


def test_streams_refuse_alike(shared: Server) -> None:
    request = gpb.GenerateStreamRequest(request=request_for(adapter="piratte"))
    with pytest.raises(grpc.RpcError) as caught:
        list(shared.generation.GenerateStream(request, timeout=30))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_message_too_large(shared: Server) -> None:
    error = refused(shared.generation.Generate, request_for(text="x" * (17 << 20)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_unexpected_errors_tell_nothing(
    shared: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any) -> None:
        raise OSError("/secret/path")

    monkeypatch.setattr(shared.app.engine, "submit", fail)
    error = refused(shared.generation.Generate, request_for())
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in error.details()
    assert "/secret/path" in caplog.text
    monkeypatch.undo()
