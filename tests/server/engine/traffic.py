"""Random traffic for an engine: requests of every kind."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from server.adapters.weights import AdapterWeights, LinearChange
from server.types import Constraint, Delta, Event, Request
from tests.server.engine.harness import Driver, HeldAdapter, Inbox, overflowing

MAX_TOKENS = 16
MAX_PROMPT = 100
OVERFLOWING = "overflowing"

Weights = dict[tuple[str, str], Any]
"""By (name, version) of an adapter."""


@dataclass(frozen=True)
class Job:
    """All that an answer depends on. `options` are those of `Driver.request`."""

    adapter: tuple[str, str] | None
    prompt: tuple[int, ...]
    options: tuple[tuple[str, Any], ...]

    @property
    def is_greedy(self) -> bool:
        """Whether its tokens are the likeliest by the log-probabilities that are told."""
        others = {"temperature", "repetition_penalty", "logit_bias", "constraint"}
        return not others & dict(self.options).keys()


class DatedInbox(Inbox):
    """Knows when the last event came."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._now = now
        self.last_s = 0.0

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        self.last_s = self._now()


@dataclass
class Sent:
    """A request that was made, its own lease and where its events arrive."""

    job: Job
    request: Request
    lease: HeldAdapter | None
    inbox: DatedInbox
    cancelled: bool = False

    @property
    def deltas(self) -> dict[int, list[Delta]]:
        """By sample."""
        found: dict[int, list[Delta]] = {}
        for event in self.inbox.events:
            if isinstance(event, Delta):
                found.setdefault(event.index, []).append(event)
        return found


def versions(weights: dict[str, Any]) -> Weights:
    """Each adapter as it is (v1) and a second version of other numbers; one more, whose
    activations overflow."""
    found: Weights = {}
    for name, old in weights.items():
        found[name, "v1"] = old
        found[name, "v2"] = _other(old)
    found[OVERFLOWING, "v1"] = overflowing(weights["narrow"])
    return found


def _other(weights: AdapterWeights) -> AdapterWeights:
    """The same kind of adapter with other numbers."""
    if weights.prompt is not None:
        return AdapterWeights(prompt=weights.prompt.flip(0))
    if weights.prefix is not None:
        return AdapterWeights(prefix=weights.prefix.flip(1))
    return AdapterWeights({path: _other_change(c) for path, c in weights.linears.items()})


def _other_change(change: LinearChange) -> LinearChange:
    if change.low_rank is not None:
        return replace(change, low_rank=replace(change.low_rank, scaling=-change.low_rank.scaling))
    into, out = change.input_scale, change.output_scale
    return LinearChange(
        input_scale=None if into is None else into.flip(0),
        output_scale=None if out is None else out.flip(0),
    )


class Traffic:
    """Draws requests from `num_jobs` jobs, a few of them far more often than the others, and now
    and then one that never comes again."""

    def __init__(
        self,
        driver: Driver,
        weights: Weights,
        constraints: Sequence[Constraint],
        now: Callable[[], float],
        *,
        seed: int,
        num_jobs: int,
    ) -> None:
        """`now` is the clock of the deadlines, in seconds."""
        self.sent: dict[str, Sent] = {}
        self.current = {name: "v1" for name, _ in weights}
        """Version by adapter."""
        self._driver = driver
        self._weights = weights
        self._constraints = constraints
        self._now = now
        self._random = random.Random(seed)
        self._stems = [self._tokens(length) for length in (9, 16, 30, 61)]
        names = [None, *sorted(self.current.keys() - {OVERFLOWING})]
        self._jobs = [self._draw_job(names[i % len(names)]) for i in range(num_jobs)]

    def draw(self, deadlines: tuple[float, ...]) -> Sent:
        """The next request, not submitted yet. One of sixteen has a deadline, as many seconds away
        as one of `deadlines`."""
        generator = self._random
        name, prompt, options = self._jobs[int(len(self._jobs) * generator.random() ** 2)]
        kind = generator.random()
        if kind < 0.01:
            name, prompt, options = self._draw_job(name)
        elif kind < 0.02:
            name = OVERFLOWING
        adapter = None if name is None else (name, self.current[name])
        job = Job(adapter, prompt, tuple(options.items()))
        lease = adapter and HeldAdapter(adapter[0], self._weights[adapter], adapter[1])
        if "continuations" not in options:
            options = options | {
                "max_tokens": min(1 + int(generator.expovariate(0.25)), MAX_TOKENS),
                "num_logprobs": generator.choice([None, None, 0, 2]),
                "stream": generator.random() < 0.6,
            }
        request = self._driver.request(
            prompt,
            lease,
            **options,
            priority=generator.choice([0, 0, 0, 0, 1, -2]),
            tenant=generator.choice(["", "", "a", "b"]),
            deadline_s=(
                self._now() + generator.choice(deadlines) if generator.random() < 1 / 16 else None
            ),
        )
        inbox = DatedInbox(self._now)
        sent = Sent(job, replace(request, emit=inbox), lease, inbox)
        self.sent[request.request_id] = sent
        return sent

    def _draw_job(self, name: str | None) -> tuple[str | None, tuple[int, ...], dict[str, Any]]:
        length = 1 + int(MAX_PROMPT * self._random.random() ** 5)
        prompt = self._tokens(length)
        if self._random.random() < 0.4:
            prompt = (self._random.choice(self._stems) + prompt)[:MAX_PROMPT]
        return name, prompt, self._draw_options()

    def _draw_options(self) -> dict[str, Any]:
        generator = self._random
        kind = generator.random()
        if kind < 0.15:
            counts = [generator.randrange(6) for _ in range(generator.randrange(1, 5))]
            return {"continuations": tuple(map(self._tokens, counts))}
        options: dict[str, Any] = {}
        if kind < 0.4:
            options |= {
                "temperature": generator.choice([0.5, 1.0, 2.0]),
                "seed": generator.getrandbits(64),
                **generator.choice([{}, {"top_k": 9}, {"top_p": 0.8}, {"min_p": 0.1}]),
            }
        if generator.random() < 0.2:
            options |= {
                "repetition_penalty": 1.3,
                "frequency_penalty": 0.5,
                "presence_penalty": 0.2,
                "logit_bias": ((generator.randrange(1, 320), 1.0),),
            }
        if generator.random() < 0.2:
            options["num_samples"] = generator.choice([2, 3, 4])
        if generator.random() < 0.1:
            options["num_prompt_logprobs"] = 1
        ending = generator.random()
        if ending < 0.1:
            options |= {"ignore_eos": False, "constraint": generator.choice(self._constraints)}
        elif ending < 0.4:
            options |= {"ignore_eos": False, "stop": ("e", "th"), "min_tokens": 2}
            options["logit_bias"] = ((0, 4.0),)
        return options

    def _tokens(self, count: int) -> tuple[int, ...]:
        return tuple(self._random.choices(range(1, 320), k=count))
