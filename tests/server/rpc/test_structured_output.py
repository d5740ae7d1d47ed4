"""Structured output over the wire: every form, together in one batch, refused, and hostile."""

import concurrent.futures
import json
import re
from typing import Any

import grpc
import pytest

from server.config import EngineConfig, LimitsConfig
from server.rpc import constraints
from tests.server.rpc.conftest import Server, StartServer, request_for
from tests.server.rpc.test_bad_input import refused, violations
from understudy.v1 import generation_service_pb2 as gpb
from understudy.v1 import types_pb2 as tpb

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "late": {"type": "boolean"},
        "platform": {"type": "integer", "minimum": 1, "maximum": 20},
    },
    "required": ["city", "late", "platform"],
    "additionalProperties": False,
}
FORMS: dict[str, dict[str, Any]] = {
    "json_schema": {"json_schema": json.dumps(SCHEMA)},
    "regex": {"regex": r"[A-Z][a-z]{2,8} \d{2}:\d{2}"},
    "choice": {"choice": tpb.Choices(choices=["on time", "late", "cancelled"])},
    "grammar": {"grammar": 'start: NAME ("," NAME)*\nNAME: /[a-z]{2,5}/'},
}
STOPPING = tpb.StoppingParams(max_tokens=200)


def constrained(form: str, **fields: Any) -> gpb.GenerateRequest:
    fields.setdefault("stopping", STOPPING)
    wanted = tpb.StructuredOutput(**FORMS[form])
    return request_for(structured_output=wanted, **fields)


def check(form: str, generation: gpb.Generation) -> None:
    """Raises AssertionError unless the text is what was asked for."""
    text = generation.text
    if generation.finish_reason == tpb.FINISH_REASON_LENGTH:
        assert form == "grammar", text
        return
    assert generation.finish_reason == tpb.FINISH_REASON_EOS
    if form == "json_schema":
        value = json.loads(text)
        assert set(value) == {"city", "late", "platform"}
        assert isinstance(value["city"], str)
        assert len(value["city"]) <= 12
        assert type(value["late"]) is bool
        assert type(value["platform"]) is int
        assert 1 <= value["platform"] <= 20
    elif form == "regex":
        assert re.fullmatch(r"[A-Z][a-z]{2,8} \d{2}:\d{2}", text)
    elif form == "choice":
        assert text in ("on time", "late", "cancelled")
    else:
        assert re.fullmatch(r"[a-z]{2,5}(,[a-z]{2,5})*", text)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("adapter", ["", "pirate", "polite"])
def test_every_form(shared: Server, form: str, adapter: str) -> None:
    for sampling in (tpb.SamplingParams(), tpb.SamplingParams(temperature=1.5, seed=4)):
        request = constrained(form, adapter=adapter, sampling=sampling)
        (generation,) = shared.generation.Generate(request, timeout=60).generations
        check(form, generation)
        again = shared.generation.Generate(request, timeout=60).generations
        assert list(again) == [generation]


@pytest.mark.parametrize("form", FORMS)
def test_streams_and_samples(shared: Server, form: str) -> None:
    sampling = tpb.SamplingParams(temperature=2, seed=1)
    request = constrained(form, adapter="pirate", sampling=sampling, num_samples=3)
    whole = shared.generation.Generate(request, timeout=60).generations
    for generation in whole:
        check(form, generation)
    stream = shared.generation.GenerateStream(
        gpb.GenerateStreamRequest(request=request), timeout=60
    )
    texts = ["", "", ""]
    for event in stream:
        texts[event.delta.index] += event.delta.text
    assert texts == [generation.text for generation in whole]


def test_many_constraints_in_one_batch(start_server: StartServer) -> None:
    """Each answer equals its own alone, whatever runs beside it."""
    server = start_server(
        engine=EngineConfig(num_blocks=60, block_size=8, max_batch_size=12, deterministic=True)
    )
    requests: dict[str, gpb.GenerateRequest] = {}
    for index in range(40):
        form = [*FORMS, ""][index % 5]
        sampling = tpb.SamplingParams(temperature=index % 3 * 0.7, seed=index)
        text = "the late train left " * (1 + index % 3)
        if form:
            requests[f"{form} {index}"] = constrained(form, text=text, sampling=sampling)
        else:
            requests[f" {index}"] = request_for(text, sampling=sampling)
    alone = {
        key: server.generation.Generate(request, timeout=60).generations
        for key, request in requests.items()
    }
    batch = server.generation.BatchGenerate(
        iter([gpb.BatchGenerateRequest(key=key, request=r) for key, r in requests.items()]),
        timeout=120,
    )
    largest = 0
    for answer in batch:
        assert answer.WhichOneof("outcome") == "response", answer
        assert answer.response.generations == alone.pop(answer.key)
        largest = max(largest, answer.response.usage.max_batch_size)
        if form := answer.key.split(" ")[0]:
            check(form, answer.response.generations[0])
    assert not alone
    assert largest >= 8


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        ("structured_output", {}),
        ("structured_output.json_schema", {"json_schema": ""}),
        ("structured_output.json_schema", {"json_schema": "[1]"}),
        ("structured_output.json_schema", {"json_schema": '{"uniqueItems": true}'}),
        ("structured_output.regex", {"regex": ""}),
        ("structured_output.regex", {"regex": "(a"}),
        ("structured_output.choice", {"choice": tpb.Choices()}),
        ("structured_output.choice.choices[1]", {"choice": tpb.Choices(choices=["a", ""])}),
        ("structured_output.grammar", {"grammar": "start: missing"}),
        ("structured_output.grammar", {"grammar": 'start: <|im_end|> "a"'}),
        ("structured_output.regex", {"regex": "a" * 70_000}),
        ("structured_output.choice", {"choice": tpb.Choices(choices=["ab"] * 20_000)}),
        ("structured_output.json_schema", {"json_schema": '{"a":' * 3000 + "1" + "}" * 3000}),
    ],
)
def test_refused_by_name(shared: Server, field: str, wanted: dict[str, Any]) -> None:
    request = request_for(structured_output=tpb.StructuredOutput(**wanted), stopping=STOPPING)
    for _ in range(2):
        error = refused(shared.generation.Generate, request)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details().startswith(f"{field}: ")
        assert violations(error) == [field]


@pytest.mark.parametrize("option", [{"min_tokens": 2}, {"stop": ["x"]}, {"ignore_eos": True}])
def test_contradictions_are_refused(shared: Server, option: dict[str, Any]) -> None:
    stopping = tpb.StoppingParams(max_tokens=50, **option)
    error = refused(shared.generation.Generate, constrained("choice", stopping=stopping))
    field = f"stopping.{next(iter(option))}"
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations(error) == [field]
    assert "structured_output" in error.details()


def test_limits_are_configured(start_server: StartServer) -> None:
    server = start_server(limits=LimitsConfig(max_constraint_bytes=100))
    error = refused(server.generation.Generate, constrained("json_schema"))
    assert "at most 100" in error.details()
    (generation,) = server.generation.Generate(constrained("choice"), timeout=60).generations
    check("choice", generation)


CHAIN = [f"a{i}: a{i + 1} a{i + 1}" for i in range(2500)]
HOSTILE = [
    {"grammar": "\n".join(["start: a0", *CHAIN, 'a2500: "x"?'])},  # overflows a stack
    *(  # exponential
        {"json_schema": json.dumps({"allOf": [{"pattern": f"a.{{{i}}}b{j}"} for i in range(40)]})}
        for j in range(3)
    ),
]


def hostile(index: int) -> gpb.GenerateRequest:
    wanted = tpb.StructuredOutput(**HOSTILE[index])
    return request_for(structured_output=wanted, stopping=STOPPING)


def test_hostile_grammars_cost_nobody_else(start_server: StartServer) -> None:
    """While they are tried, others are answered as ever; then those whose grammar is good."""
    server = start_server(limits=LimitsConfig(max_constraint_s=0.4))
    server.generation.Generate(constrained("regex"), timeout=60)
    with concurrent.futures.ThreadPoolExecutor(len(HOSTILE)) as threads:
        attacks = [
            threads.submit(refused, server.generation.Generate, hostile(index))
            for index in range(len(HOSTILE))
        ]
        answered = 0
        while not all(attack.done() for attack in attacks):
            server.generate()
            # Compiled before: it need not wait for its turn.
            (answer,) = server.generation.Generate(constrained("regex"), timeout=60).generations
            check("regex", answer)
            answered += 1
        errors = [attack.result() for attack in attacks]
    assert {error.code() for error in errors} == {grpc.StatusCode.INVALID_ARGUMENT}
    assert "nested" in errors[0].details()
    assert all("takes more than" in error.details() for error in errors[1:])
    assert answered >= 4
    fresh = tpb.StructuredOutput(regex="[xyz]{7}")
    request = request_for(structured_output=fresh, stopping=STOPPING)
    (generation,) = server.generation.Generate(request, timeout=60).generations
    assert re.fullmatch("[xyz]{7}", generation.text)


def test_a_queue_of_grammars_is_bounded(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constraints, "_MAX_WAITING", 1)
    server = start_server(limits=LimitsConfig(max_constraint_s=1.0))
    calls = [server.generation.Generate.future(hostile(i), timeout=60) for i in (1, 2, 3)]
    errors = [call.exception() for call in calls]
    codes = [error.code() for error in errors]
    assert codes.count(grpc.StatusCode.INVALID_ARGUMENT) == 1
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 2


def test_a_grammar_that_fails_on_the_way(shared: Server) -> None:
    """Compiled, but too ambiguous to be followed far: its own request fails."""
    wanted = tpb.StructuredOutput(grammar='start: (("a"{1,1000}){1,1000}){1,1000}')
    request = request_for(
        structured_output=wanted,
        stopping=tpb.StoppingParams(max_tokens=1000),
        sampling=tpb.SamplingParams(logit_bias={0: -100.0}),
    )
    error = refused(shared.generation.Generate, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations(error) == ["structured_output.grammar"]
