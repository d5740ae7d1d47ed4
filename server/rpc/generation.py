"""GenerationService: thin servicers over admission."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import grpc

from server.adapters.artifact import READERS
from server.config import EngineConfig, LimitsConfig
from server.constraints.grammar import Grammar
from server.errors import InvalidRequestError
from server.metrics import Metrics
from server.rpc import convert, options
from server.rpc.admission import Admission, Work
from server.rpc.batch import answer_batch
from server.rpc.constraints import ConstraintDesk, grammar_of
from server.rpc.leases import AdapterChoice, AnyLease
from server.rpc.prompts import PromptEncoder, beside
from server.rpc.streams import TokenClock
from server.types import (
    BaseInfo,
    Classified,
    Delta,
    Finished,
    SamplingParams,
    Scored,
    StoppingParams,
)
from understudy.v1 import generation_service_pb2 as pb
from understudy.v1.generation_service_pb2_grpc import GenerationServiceServicer

Context = grpc.aio.ServicerContext[Any, Any]

# Scoring and classifying draw nothing.
_NO_DRAW = (SamplingParams(), StoppingParams(max_tokens=1))


@dataclass(frozen=True)
class GenerationServer(GenerationServiceServicer):
    """Answers `understudy.v1.GenerationService`. Raises the server's errors."""

    admission: Admission
    encoder: PromptEncoder
    constraints: ConstraintDesk
    info: BaseInfo
    engine_config: EngineConfig
    limits: LimitsConfig
    metrics: Metrics

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:
        """Generates and answers once."""
        return await self._generate(request, context.time_remaining())

    async def GenerateStream(
        self, request: pb.GenerateStreamRequest, context: Context
    ) -> AsyncIterator[pb.GenerateStreamResponse]:
        """Started, deltas, finished."""
        wanted = request.request
        request_id = options.request_id(wanted.request_id)
        draft = self._draft(wanted, stream=True)
        remaining_s = context.time_remaining()
        clock = TokenClock(self.metrics)
        async with self.admission.run(draft.adapter, remaining_s, draft.work) as running:
            token_text = self.encoder.of(running.lease).token_text
            yield pb.GenerateStreamResponse(
                started=pb.StreamStarted(
                    request_id=request_id,
                    adapter=convert.adapter_ref(running.lease),
                    num_prompt_tokens=running.num_prompt_tokens,
                )
            )
            async for event in running.events():
                if isinstance(event, Delta):
                    clock.tokens(event.index, len(event.token_ids))
                    yield pb.GenerateStreamResponse(
                        delta=pb.StreamDelta(
                            index=event.index,
                            text=event.text,
                            token_ids=event.token_ids,
                            logprobs=convert.logprobs(event.logprobs, token_text),
                        )
                    )
                elif isinstance(event, Finished):
                    endings = convert.generations(event, token_text, ending_only=True)
                    yield pb.GenerateStreamResponse(
                        finished=pb.StreamFinished(
                            generations=endings, usage=convert.usage(event.usage)
                        )
                    )

    async def BatchGenerate(
        self, request_iterator: AsyncIterator[pb.BatchGenerateRequest], context: Context
    ) -> AsyncIterator[pb.BatchGenerateResponse]:
        """Many generations over one stream, answered as they finish."""
        answers = answer_batch(
            request_iterator,
            lambda request: self._generate(request, context.time_remaining()),
            self.limits.max_batch_in_flight,
        )
        async with contextlib.aclosing(answers):
            async for answer in answers:
                yield answer

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:
        """Log-likelihood of each continuation."""
        request_id = options.request_id(request.request_id)
        tenant = options.tenant(request.tenant)
        count, most = len(request.continuations), self.limits.max_continuations
        if not 1 <= count <= most:
            raise InvalidRequestError("continuations", f"holds {count}, must hold 1 to {most}")

        async def work(lease: AnyLease | None) -> Work:
            template = lease.template if lease is not None else None
            encoder = self.encoder.of(lease)
            prompt = await encoder.encode(request.input, template)
            context_ids, continuations = await encoder.encode_continuations(
                prompt, request.continuations
            )
            sampling, stopping = _NO_DRAW
            return Work(
                prompt_token_ids=context_ids,
                sampling=sampling,
                stopping=stopping,
                continuations=continuations,
                priority=request.priority,
                tenant=tenant,
            )

        async with self.admission.run(request.adapter, context.time_remaining(), work) as running:
            event = await running.result()
            assert isinstance(event, Scored)
            token_text = self.encoder.of(running.lease).token_text
            return pb.ScoreResponse(
                request_id=request_id,
                adapter=convert.adapter_ref(running.lease),
                scores=[
                    convert.continuation_score(
                        score, token_text, token_logprobs=request.token_logprobs
                    )
                    for score in event.scores
                ],
                usage=convert.usage(event.usage),
            )

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        """Label probabilities from the adapter's head."""
        request_id = options.request_id(request.request_id)
        tenant = options.tenant(request.tenant)

        async def work(lease: AnyLease | None) -> Work:
            template = lease.template if lease is not None else None
            prompt = await self.encoder.of(lease).encode(request.input, template)
            sampling, stopping = _NO_DRAW
            return Work(
                prompt_token_ids=prompt.token_ids,
                sampling=sampling,
                stopping=stopping,
                classify=True,
                priority=request.priority,
                tenant=tenant,
            )

        async with self.admission.run(request.adapter, context.time_remaining(), work) as running:
            event = await running.result()
            assert isinstance(event, Classified)
            return pb.ClassifyResponse(
                request_id=request_id,
                adapter=convert.adapter_ref(running.lease),
                labels=map(convert.label_score, event.labels),
                usage=convert.usage(event.usage),
            )

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """The token ids that a request with this input would run."""
        async with self.admission.lease(request.adapter) as lease:
            template = lease.template if lease is not None else None
            encoder = self.encoder.of(lease)
            prompt = await encoder.encode(request.input, template)
        return pb.TokenizeResponse(
            token_ids=prompt.token_ids,
            tokens=await encoder.token_texts(prompt.token_ids),
            prompt=prompt.text or "",
        )

    async def GetModelInfo(
        self, request: pb.GetModelInfoRequest, context: Context
    ) -> pb.GetModelInfoResponse:
        """What this server holds."""
        info, engine = self.info, self.engine_config
        return pb.GetModelInfoResponse(
            base_model=info.name,
            base_fingerprint=info.fingerprint,
            architecture=info.architecture,
            quantization=info.quantization,
            dtype=info.dtype,
            device=info.device,
            max_context_tokens=info.max_context_tokens,
            vocab_size=info.vocab_size,
            num_parameters=info.num_parameters,
            resident_bytes=info.resident_bytes,
            int8_threshold=info.int8_threshold,
            deterministic=info.deterministic,
            max_batch_size=engine.max_batch_size,
            max_queue_size=engine.max_queue_size,
            num_adapter_slots=engine.num_adapter_slots,
            max_lora_rank=engine.max_lora_rank,
            server_version=metadata.version("understudy"),
            adapter_methods=sorted(READERS),
            weight_form=info.weight_form,
            bos_token_id=self.encoder.tokenizer.bos_token_id,
            eos_token_id=self.encoder.tokenizer.eos_token_id,
        )

    async def _generate(
        self, request: pb.GenerateRequest, time_remaining_s: float | None
    ) -> pb.GenerateResponse:
        request_id = options.request_id(request.request_id)
        draft = self._draft(request, stream=False)
        async with self.admission.run(draft.adapter, time_remaining_s, draft.work) as running:
            event = await running.result()
            assert isinstance(event, Finished)
            adapter = convert.adapter_ref(running.lease)
            token_text = self.encoder.of(running.lease).token_text
            return await beside(
                convert.num_logprobs(event),
                lambda: pb.GenerateResponse(
                    request_id=request_id,
                    adapter=adapter,
                    generations=convert.generations(event, token_text),
                    usage=convert.usage(event.usage),
                    prompt_logprobs=convert.logprobs(event.prompt_logprobs, token_text),
                ),
            )

    def _draft(self, request: pb.GenerateRequest, *, stream: bool) -> "_Draft":
        """Checks all that can be checked without the adapter."""
        return _Draft(
            encoder=self.encoder,
            constraints=self.constraints,
            request=request,
            adapter=options.adapter_choice(request, self.limits),
            grammar=grammar_of(request, self.limits),
            sampling=options.sampling_params(request.sampling),
            stopping=options.stopping_params(request.stopping, self.limits),
            num_logprobs=options.num_logprobs(request.output),
            num_prompt_logprobs=options.num_prompt_logprobs(request.output, stream=stream),
            num_samples=options.num_samples(request, self.limits),
            tenant=options.tenant(request.tenant),
            stream=stream,
            max_context=self.info.max_context_tokens,
            limits=self.limits,
        )


@dataclass(frozen=True, slots=True)
class _Draft:
    """A checked generation that waits for its adapter."""

    encoder: PromptEncoder
    constraints: ConstraintDesk
    request: pb.GenerateRequest
    adapter: AdapterChoice
    grammar: Grammar | None
    sampling: SamplingParams
    stopping: StoppingParams
    num_logprobs: int | None
    num_prompt_logprobs: int | None
    num_samples: int
    tenant: str
    stream: bool
    max_context: int
    limits: LimitsConfig

    async def work(self, lease: AnyLease | None) -> Work:
        template = lease.template if lease is not None else None
        prompt = await self.encoder.of(lease).encode(self.request.input, template)
        constraint = None
        if self.grammar is not None:
            constraint = await self.constraints.acquire(self.grammar)
        work = Work(
            prompt_token_ids=prompt.token_ids,
            sampling=self.sampling,
            stopping=self.stopping,
            num_logprobs=self.num_logprobs,
            num_prompt_logprobs=self.num_prompt_logprobs,
            num_samples=self.num_samples,
            constraint=constraint,
            priority=self.request.priority,
            tenant=self.tenant,
            stream=self.stream,
        )
        options.check_num_logprobs(work, self.max_context, self.limits)
        return work
