"""Drives the engine's core step by step, without a thread."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch

from server.adapters.artifact import read_weights
from server.adapters.weights import AdapterWeights, LinearChange
from server.config import EngineConfig
from server.engine.capture import Capture
from server.engine.core import EngineCore
from server.engine.side_stream import SideStream
from server.models.loader import LoadedBase
from server.types import (
    AdapterEvent,
    BaseInfo,
    Classified,
    Delta,
    Event,
    Failed,
    Finished,
    FinishedSample,
    Request,
    SamplingParams,
    Scored,
    StepRecord,
    StoppingParams,
    Usage,
)
from understudy.artifact import read_json_object


@dataclass
class Recorder:
    """An `EngineMetrics` that keeps what it is told."""

    steps: list[StepRecord] = field(default_factory=list)
    ended: list[tuple[str, str]] = field(default_factory=list)
    left_queue: list[str] = field(default_factory=list)
    num_preempted: int = 0
    placed: list[str] = field(default_factory=list)

    def step(self, record: StepRecord) -> None:
        self.steps.append(record)

    def request_accepted(self, adapter: str) -> None:
        pass

    def request_left_queue(self, adapter: str, outcome: str, queue_s: float) -> None:
        assert queue_s >= 0
        self.left_queue.append(outcome)

    def first_token(self, adapter: str, seconds: float) -> None:
        assert seconds >= 0

    def request_ended(self, adapter: str, outcome: str, usage: Usage | None) -> None:
        self.ended.append((adapter, outcome))

    def preempted(self) -> None:
        self.num_preempted += 1

    def adapter_placed(self, adapter: str, seconds: float) -> None:
        self.placed.append(adapter)


class HeldAdapter:
    """A lease that counts its releases."""

    def __init__(self, name: str, weights: Any, version: str = "v1") -> None:
        self.name, self.version, self.weights = name, version, weights
        self.num_virtual_tokens = getattr(weights, "num_virtual_tokens", 0)
        self.num_released = 0

    def release(self) -> None:
        self.num_released += 1


def read_adapter(directory: Path, base: BaseInfo) -> Any:
    """The weights of an artifact."""
    config = read_json_object(directory / "adapter_config.json")
    tensors = safetensors.torch.load_file(directory / "adapter_model.safetensors")
    return read_weights(config["peft_type"].lower(), config, tensors, base)


def overflowing(weights: AdapterWeights) -> AdapterWeights:
    """A LoRA adapter's weights, each finite, so large that activations are not."""
    return AdapterWeights(
        {
            path: LinearChange(
                replace(change.low_rank, a=change.low_rank.a * 1e37, b=change.low_rank.b * 1e37)
            )
            for path, change in weights.linears.items()
            if change.low_rank is not None
        }
    )


class Inbox:
    """Receives one request's events and checks their order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def terminal(self) -> Finished | Scored | Classified | Failed | None:
        if not self.events:
            return None
        *before, last = self.events
        # Here and not on arrival: the engine survives receivers that raise.
        assert all(isinstance(event, Delta) for event in before), self.events
        return None if isinstance(last, Delta) else last

    @property
    def answer(self) -> Finished:
        assert isinstance(self.terminal, Finished), self.terminal
        deltas = [event for event in self.events if isinstance(event, Delta)]
        for index, sample in enumerate(self.terminal.samples if deltas else ()):
            own = [delta for delta in deltas if delta.index == index]
            assert "".join(delta.text for delta in own) == sample.text
            assert tuple(i for d in own for i in d.token_ids) == sample.token_ids
            assert tuple(p for d in own for p in d.logprobs) == sample.logprobs
        return self.terminal

    @property
    def finished(self) -> FinishedSample:
        """The only sample."""
        (sample,) = self.answer.samples
        return sample

    @property
    def classified(self) -> Classified:
        assert isinstance(self.terminal, Classified), self.terminal
        return self.terminal

    @property
    def scored(self) -> Scored:
        assert isinstance(self.terminal, Scored), self.terminal
        return self.terminal

    @property
    def error(self) -> Exception:
        assert isinstance(self.terminal, Failed), self.terminal
        return self.terminal.error


class Later(Executor):
    """Does its work when it is told to: a loader's thread at the test's pace."""

    def __init__(self) -> None:
        self.jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.append((future, partial(fn, *args, **kwargs)))
        return future

    def finish(self, count: int = 1) -> None:
        """Does the next pieces of work."""
        for _ in range(count):
            future, work = self.jobs.popleft()
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)


class Driver:
    """An engine core whose every step is checked."""

    def __init__(
        self,
        base: LoadedBase,
        *,
        clock: Callable[[], float] = time.monotonic,
        loader: Executor | None = None,
        capture: Capture | None = None,
        stream: SideStream | None = None,
        **config: Any,
    ) -> None:
        self.base = base
        self.metrics = Recorder()
        self.clock = clock
        self.changes: list[AdapterEvent] = []
        self.core = EngineCore(
            base,
            EngineConfig(**config),
            self.metrics,
            on_change=lambda event: self.changes.append(event),
            clock=clock,
            loader=loader,
            capture=capture,
            stream=stream,
        )
        self._count = 0

    def request(
        self,
        prompt: Iterable[int],
        adapter: HeldAdapter | None = None,
        *,
        max_tokens: int = 8,
        **options: Any,
    ) -> Request:
        """A request that ignores the end of sequence; `options` are fields of Request, of
        SamplingParams or of StoppingParams."""
        self._count += 1
        sampling = {k: options.pop(k) for k in list(options) if k in _SAMPLING}
        stopping = {k: options.pop(k) for k in list(options) if k in _STOPPING}
        stopping.setdefault("ignore_eos", True)
        return Request(
            request_id=str(self._count),
            prompt_token_ids=tuple(prompt),
            lease=adapter,
            sampling=SamplingParams(**sampling),
            stopping=StoppingParams(max_tokens=max_tokens, **stopping),
            emit=Inbox(),
            arrival_s=time.monotonic(),
            **options,
        )

    def add(self, *args: Any, **options: Any) -> Inbox:
        """Adds a request; returns where its events arrive."""
        return self.submit(self.request(*args, **options))

    def submit(self, request: Request) -> Inbox:
        inbox = Inbox()
        self.core.add(replace(request, emit=inbox))
        return inbox

    def step(self) -> bool:
        """Whether anything ran."""
        self.core.expire(self.clock())
        has_run = self.core.step()
        self.core.check_integrity()
        return has_run

    def run(self, max_steps: int = 10_000) -> None:
        """Steps until every request has ended."""
        for _ in range(max_steps):
            if not self.core.has_work:
                return
            self.step()
        raise AssertionError(f"still at work after {max_steps} steps")


_SAMPLING = {field.name for field in fields(SamplingParams)}
_STOPPING = {"min_tokens", "stop", "ignore_eos"}
