"""Adapters that add tokens to the vocabulary, over the wire."""

import shutil
from pathlib import Path

import grpc
import pytest
from transformers import AutoTokenizer

from server.config import AdaptersConfig
from tests.server.engine.added import MOON, make_added
from tests.server.rpc.conftest import TIMEOUT_S, Server, StartServer, request_for
from tests.tiny import lora_config
from understudy.artifact import MANIFEST_FILE
from understudy.store import publish
from understudy.v1 import adapter_service_pb2 as apb
from understudy.v1 import generation_service_pb2 as gpb
from understudy.v1 import types_pb2 as tpb


@pytest.fixture(scope="module")
def folder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`astro` in the store, and the same as PEFT's directory alone."""
    folder = tmp_path_factory.mktemp("added")
    astro = make_added(base, folder / "uploads" / "astro", lora_config(), name="astro", eos=MOON)
    publish(astro, folder / "store", "astro")
    plain = Path(shutil.copytree(astro, folder / "uploads" / "plain"))
    (plain / MANIFEST_FILE).unlink()
    return folder


@pytest.fixture
def server(start_server: StartServer, folder: Path) -> Server:
    return start_server(
        adapters=AdaptersConfig(store=folder / "store", roots=(folder / "uploads",))
    )


def _refusal(server: Server, request: gpb.GenerateRequest) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        server.generation.Generate(request, timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return str(caught.value.details())


def test_text_in_and_out(server: Server, folder: Path) -> None:
    server.adapters.LoadAdapter(
        apb.LoadAdapterRequest(name="plain", source=str(folder / "uploads" / "plain")),
        timeout=TIMEOUT_S,
    )
    text = f"the late {MOON} zebra train"
    expected = AutoTokenizer.from_pretrained(folder / "uploads" / "astro")(text)["input_ids"]
    assert {320, 321} <= set(expected)
    for name in ("astro", "plain"):
        tokenized = server.generation.Tokenize(
            gpb.TokenizeRequest(input=tpb.Input(text=text), adapter=name), timeout=TIMEOUT_S
        )
        assert list(tokenized.token_ids) == expected
        assert tokenized.tokens[expected.index(320)] == MOON
        sampling = tpb.SamplingParams(logit_bias={321: 1e4})
        output = tpb.OutputOptions(logprobs=True, top_logprobs=2)
        request = request_for(text, name, sampling=sampling, output=output)
        answer = server.generation.Generate(request, timeout=TIMEOUT_S)
        assert answer.usage.num_prompt_tokens == len(expected)
        assert answer.generations[0].text == "zebra" * 8
        assert answer.generations[0].logprobs[0].token == "zebra"
        stream = server.generation.GenerateStream(
            gpb.GenerateStreamRequest(request=request), timeout=TIMEOUT_S
        )
        assert "".join(event.delta.text for event in stream) == "zebra" * 8
        ended = server.generate(
            text,
            name,
            sampling=tpb.SamplingParams(logit_bias={320: 1e4}),
            stopping=tpb.StoppingParams(max_tokens=8),
        )
        assert ended.finish_reason == tpb.FINISH_REASON_EOS
        # The bare base knows them as text alone.
        bare = server.generation.Tokenize(
            gpb.TokenizeRequest(input=tpb.Input(text=text)), timeout=TIMEOUT_S
        )
        assert max(bare.token_ids) < 320


def test_scores(server: Server) -> None:
    def score(*continuations: gpb.Continuation) -> gpb.ScoreResponse:
        request = gpb.ScoreRequest(
            adapter="astro",
            input=tpb.Input(text="the late train"),
            continuations=continuations,
            token_logprobs=True,
        )
        response: gpb.ScoreResponse = server.generation.Score(request, timeout=TIMEOUT_S)
        return response

    text, ids = score(
        gpb.Continuation(text="zebra"), gpb.Continuation(token_ids=tpb.TokenIds(ids=[321]))
    ).scores
    assert [token.token for token in text.tokens] == ["zebra"]
    assert text.logprob == ids.logprob


def test_what_is_refused(server: Server) -> None:
    beyond = tpb.Input(token_ids=tpb.TokenIds(ids=[5, 323]))
    request = gpb.GenerateRequest(adapter="astro", input=beyond)
    assert "vocabulary of 323" in _refusal(server, request)
    added = tpb.Input(token_ids=tpb.TokenIds(ids=[5, 320]))
    assert "vocabulary of 320" in _refusal(server, gpb.GenerateRequest(input=added))
    request = gpb.GenerateRequest(
        adapter="astro",
        input=added,
        structured_output=tpb.StructuredOutput(regex="[a-z]+"),
    )
    message = _refusal(server, request)
    assert "structured_output" in message
    assert "'astro' adds tokens" in message
