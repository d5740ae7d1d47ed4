"""How choices are asked for: together, each behind its own context, and behind nothing."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from evalsuite.errors import ServerError
from evalsuite.generator import ClientGenerator
from evalsuite.types import Request
from understudy.v1 import adapter_service_pb2 as adapter_pb
from understudy.v1 import adapter_service_pb2_grpc as adapter_grpc
from understudy.v1 import generation_service_pb2 as generation_pb
from understudy.v1 import generation_service_pb2_grpc as generation_grpc
from understudy.v1 import types_pb2 as types_pb


class LengthServer(generation_grpc.GenerationServiceServicer, adapter_grpc.AdapterServiceServicer):
    """A continuation's log-likelihood: minus its context's length and a hundredth of its own."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str, tuple[str, ...]]] = []
        self.factor = 1.0

    def GetAdapter(self, request: Any, context: Any) -> Any:
        manifest = {"plain": "", "words": '{"prompt_template": "{{ tone }}: {{ word }}"}'}
        adapter = types_pb.Adapter(name=request.adapter, version="1", method="lora")
        return adapter_pb.GetAdapterResponse(
            adapter=adapter, manifest_json=manifest[request.adapter]
        )

    def Score(self, request: Any, context: Any) -> Any:
        form = request.input.WhichOneof("form")
        prompt = getattr(request.input, form)
        if form == "variables":
            prompt = str(sorted(prompt.values.items()))
        texts = tuple(continuation.text for continuation in request.continuations)
        self.asked.append((request.adapter, form, prompt, texts))
        scores = [
            generation_pb.ContinuationScore(
                logprob=self.factor * -(len(prompt) + len(text) / 100), num_tokens=2
            )
            for text in texts
        ]
        usage = types_pb.Usage(num_prompt_tokens=5, num_completion_tokens=2 * len(texts))
        return generation_pb.ScoreResponse(scores=scores, usage=usage)


@pytest.fixture
def served() -> Iterator[tuple[LengthServer, str]]:
    service = LengthServer()
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    generation_grpc.add_GenerationServiceServicer_to_server(service, server)
    adapter_grpc.add_AdapterServiceServicer_to_server(service, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield service, address
    server.stop(grace=None).wait()


async def test_a_row_knows_what_its_template_reads(served: Any) -> None:
    async with ClientGenerator(served[1]) as generator:
        assert (await generator.adapter_row("words")).variables == ("tone", "word")
        assert (await generator.adapter_row("plain")).variables == ()


async def test_fields_are_sent_by_name(served: Any) -> None:
    service, address = served
    request = Request(
        "a@1",
        "",
        False,
        choices=(" x", " y"),
        contexts=("one", "two"),
        text_variables=("word",),
        fields={"tone": "calm"},
    )
    async with ClientGenerator(address) as generator:
        await generator.answer(request)
    assert [asked[1:3] for asked in service.asked] == [
        ("variables", str([("tone", "calm"), ("word", word)])) for word in ("one", "two")
    ]


async def test_choices_behind_one_prompt(served: Any) -> None:
    service, address = served
    async with ClientGenerator(address) as generator:
        answer = await generator.answer(Request("a@1", "hello", False, choices=(" yes", " nö")))
    assert service.asked == [("a@1", "text", "hello", (" yes", " nö"))]
    assert [choice.logprob for choice in answer.choices] == pytest.approx([-5.04, -5.03])
    assert [(c.num_chars, c.num_bytes) for c in answer.choices] == [(3, 3), (2, 3)]
    assert all(choice.unconditional_logprob is None for choice in answer.choices)
    assert (answer.num_prompt_tokens, answer.num_completion_tokens) == (5, 4)


async def test_choices_behind_contexts_of_their_own(served: Any) -> None:
    service, address = served
    request = Request("", "", True, choices=(" end", " end"), contexts=("one", "three"))
    async with ClientGenerator(address) as generator:
        answer = await generator.answer(request)
    assert service.asked == [
        ("", "raw_prompt", "one", (" end",)),
        ("", "raw_prompt", "three", (" end",)),
    ]
    assert [choice.logprob for choice in answer.choices] == pytest.approx([-3.04, -5.04])
    assert (answer.num_prompt_tokens, answer.num_completion_tokens) == (10, 4)


async def test_choices_behind_nothing_too(served: Any) -> None:
    service, address = served
    request = Request("a@1", "hello", False, choices=(" x", " yz"), unconditional="Answer:")
    async with ClientGenerator(address) as generator:
        answer = await generator.answer(request)
    assert service.asked[1] == ("a@1", "raw_prompt", "Answer:", (" x", " yz"))
    alone = [choice.unconditional_logprob for choice in answer.choices]
    assert alone == pytest.approx([-7.02, -7.03])
    assert answer.num_prompt_tokens == 5, "what is asked beside the question is not counted"


async def test_not_a_number(served: Any) -> None:
    service, address = served
    service.factor = float("nan")
    async with ClientGenerator(address) as generator:
        with pytest.raises(ServerError, match="a log-likelihood of NaN"):
            await generator.answer(Request("", "hello", True, choices=(" x", " y")))
