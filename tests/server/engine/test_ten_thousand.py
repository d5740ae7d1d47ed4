"""Ten thousand random requests: nothing leaks, each is answered once, and as if it were alone."""

import random
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence

import pytest

from server.config import EngineConfig
from server.constraints import grammar
from server.constraints.compiler import GrammarCompiler
from server.engine.engine import Engine
from server.errors import DeadlineError, QueueFullError
from server.kernels import load_native
from server.models.loader import LoadedBase, load_base
from server.types import Constraint, Failed
from tests.server.engine.conftest import Tiny
from tests.server.engine.harness import Driver, Recorder, read_adapter
from tests.server.engine.solos import Solos, check_bits, check_ended, count_flips
from tests.server.engine.traffic import OVERFLOWING, Sent, Traffic, Weights, versions

_BLOCKS = {"block_size": 4, "num_blocks": 40}
# Too few blocks and slots for the batch; some wait so long that they are overdue.
_TIGHT = _BLOCKS | {
    "max_batch_size": 24,
    "max_step_tokens": 48,
    "num_adapter_slots": 3,
    "max_wait_s": 60.0,
}
# Seconds away, of which a step takes one: passed, hopeless for a long prompt, soon, late enough.
_DEADLINES = (0.0, 1e-9, 2.0, 6.0, 15.0, 1e6)
_OUTCOMES = ("length", "eos", "stop", "scored", "cancelled", "deadline", "hopeless", "error")


class Run:
    """A core under traffic, step by step, on a clock that moves a second with each step."""

    def __init__(
        self,
        base: LoadedBase,
        weights: Weights,
        constraints: Sequence[Constraint],
        *,
        seed: int,
        **config: bool,
    ) -> None:
        self.now = 0.0
        self.weights = weights
        self.driver = Driver(base, clock=lambda: self.now, **_TIGHT, **config)
        self.traffic = Traffic(
            self.driver, weights, constraints, lambda: self.now, seed=seed, num_jobs=150
        )
        self.cancelled_while: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._cancels: defaultdict[int, list[Sent]] = defaultdict(list)
        self._recent: deque[Sent] = deque(maxlen=60)
        self.num_steps = 0

    def run(self, num_requests: int) -> None:
        core, generator = self.driver.core, self._random
        sent = self.traffic.sent
        limit = 0
        while len(sent) < num_requests or core.has_work:
            if self.num_steps % 50 == 0:
                # Between an engine that idles and a queue in which most become overdue.
                limit = generator.choice([1, 5, 20, 60])
            burst = generator.choice([0, 1, 3, 10])
            while burst and core.num_unstarted < limit and len(sent) < num_requests:
                self._send()
                burst -= 1
            for request in self._cancels.pop(self.num_steps, ()):
                self._cancel(request)
            if generator.random() < 0.04:
                likely = [s for s in self._recent if _is_likely_running(s)]
                if likely:
                    self._cancel(generator.choice(likely))
            if generator.random() < 0.02:
                self._replace(generator.choice(sorted(self.traffic.current.keys())))
            core.expire(self.now)
            core.step()
            core.check_integrity()
            self.num_steps += 1
            self.now += 1.0

    def _send(self) -> None:
        sent = self.traffic.draw(_DEADLINES)
        self.driver.core.add(sent.request)
        self._recent.append(sent)
        if self._random.random() < 0.1:
            delay = int(self._random.choice([0, 1, 3, 10, 40]) * self._random.random())
            self._cancels[self.num_steps + delay].append(sent)

    def _cancel(self, sent: Sent) -> None:
        core = self.driver.core
        if sent.inbox.terminal is not None:
            return
        num_unstarted = core.num_unstarted
        sent.cancelled = True
        core.cancel(sent.request.request_id)
        if core.num_unstarted < num_unstarted:
            self.cancelled_while["queued"] += 1
        elif sent.request.stream:
            has_token = len(sent.inbox.events) > 1
            self.cancelled_while["decoding" if has_token else "in prefill"] += 1

    def _replace(self, name: str) -> None:
        """Unloads a version of an adapter; the next requests are of the other one."""
        version = self.traffic.current[name]
        self.driver.core.evict(name, version)
        if name != OVERFLOWING:
            self.traffic.current[name] = "v2" if version == "v1" else "v1"

    def check(self) -> Counter[str]:
        """Checks that nothing is left; returns the outcomes."""
        core, metrics = self.driver.core, self.driver.metrics
        outcomes = Counter(map(check_ended, self.traffic.sent.values()))
        for sent in self.traffic.sent.values():
            deadline_s, terminal = sent.request.deadline_s, sent.inbox.terminal
            is_late = isinstance(terminal, Failed) and isinstance(terminal.error, DeadlineError)
            continuations = sent.request.continuations
            # Nothing to compute, as for a score of empty continuations, is never late.
            if not is_late and deadline_s is not None and (any(continuations) or not continuations):
                assert sent.inbox.last_s < deadline_s, sent
        assert len(metrics.ended) == len(metrics.left_queue) == len(self.traffic.sent)
        # An adapter in use would keep its slot.
        for name, version in self.weights:
            core.evict(name, version)
        stats = core.stats()
        assert (stats.num_running, stats.num_waiting, stats.num_used_blocks) == (0, 0, 0)
        assert stats.slots == ()
        # Every block can still be had.
        inbox = self.driver.add([1] * core.max_context, max_tokens=1)
        self.driver.run()
        assert inbox.finished
        assert core.stats().num_used_blocks == 0
        return outcomes


def _is_likely_running(sent: Sent) -> bool:
    """Of the others, most wait or have ended."""
    events, prompt = sent.inbox.events, sent.request.prompt_token_ids
    return sent.inbox.terminal is None and bool(events or len(prompt) > 80)


@pytest.fixture(scope="module")
def weights(tiny: Tiny, loaded: LoadedBase) -> Weights:
    return versions({n: read_adapter(path, loaded.info) for n, path in tiny.adapters.items()})


@pytest.fixture(scope="module")
def constraints(loaded: LoadedBase) -> Iterator[list[Constraint]]:
    compiler = GrammarCompiler(
        loaded.tokenizer, loaded.info.vocab_size, loaded.eos_token_ids, max_compile_s=2.0
    )
    texts = grammar.regex("[a-f]{4,9}(, [0-9]{2})?"), grammar.choice(["red", "green", "re"])
    yield [compiler.compile(text) for text in texts]
    compiler.close()


def test_ten_thousand_requests(
    loaded: LoadedBase, weights: Weights, constraints: list[Constraint]
) -> None:
    run = Run(loaded, weights, constraints, seed=0, deterministic=True)
    run.run(10_000)
    outcomes = run.check()
    assert outcomes.total() == 10_000
    for outcome in _OUTCOMES:
        assert outcomes[outcome] >= 20, outcomes
    for moment in ("queued", "in prefill", "decoding"):
        assert run.cancelled_while[moment] >= 10, run.cancelled_while
    assert run.driver.metrics.num_preempted >= 200
    assert sum(record.num_prefix_hits for record in run.driver.metrics.steps) > 10_000
    solos = Solos(loaded, weights, {"deterministic": True} | _BLOCKS)
    for sent in run.traffic.sent.values():
        check_bits(sent, solos)


@pytest.mark.parametrize(("kernels", "num_requests"), [("native", 1_000), ("torch", 300)])
def test_default_mode(
    tiny: Tiny,
    weights: Weights,
    constraints: list[Constraint],
    kernels: str,
    num_requests: int,
) -> None:
    """Sums depend on the batch: equal within rounding."""
    if kernels == "native" and load_native() is None:
        pytest.skip("the native kernels were not compiled, or not for this CPU")
    base = load_base(tiny.base, quantization="none", kernels=kernels)
    assert (base.kernels is not None) == (kernels == "native")
    run = Run(base, weights, constraints, seed=1)
    run.run(num_requests)
    run.check()
    assert run.driver.metrics.num_preempted > 0
    solos = Solos(base, weights, _BLOCKS)
    complete = [
        sent for sent in run.traffic.sent.values() if not isinstance(sent.inbox.terminal, Failed)
    ]
    flips = sum(count_flips(sent, solos, 1e-4) for sent in complete)
    assert flips <= 0.01 * len(complete)


def test_the_engine_under_several_threads(
    loaded: LoadedBase, weights: Weights, constraints: list[Constraint]
) -> None:
    """Submits, cancels and unloads come from other threads, deadlines on the real clock; it is
    stopped while some requests are open."""
    config = EngineConfig(**_TIGHT, max_queue_size=40, deterministic=True)
    metrics = Recorder()
    engine = Engine(loaded, config, metrics)
    traffic = Traffic(Driver(loaded), weights, constraints, time.monotonic, seed=2, num_jobs=60)
    accepted: list[Sent] = []
    is_over = threading.Event()

    def disturb() -> None:
        generator = random.Random(3)
        while not is_over.wait(0.002):
            if accepted and generator.random() < 0.5:
                sent = generator.choice(accepted[-40:])
                sent.cancelled = True
                engine.cancel(sent.request.request_id)
            if generator.random() < 0.05:
                engine.evict(*generator.choice(sorted(weights)))

    disturber = threading.Thread(target=disturb)
    engine.start()
    disturber.start()
    refused: Counter[type[Exception]] = Counter()
    for _ in range(1_000):
        sent = traffic.draw((0.0, 0.003, 0.01, 0.05, 1e6))
        while True:
            try:
                engine.submit(sent.request)
            except QueueFullError as error:
                refused[type(error)] += 1
                time.sleep(0.02)
            except DeadlineError as error:
                refused[type(error)] += 1
                # The caller still owns the lease.
                assert sent.lease is None or sent.lease.num_released == 0
                assert not sent.inbox.events
                break
            else:
                accepted.append(sent)
                break
    is_over.set()
    disturber.join()
    engine.stop()
    outcomes = Counter(map(check_ended, accepted))
    assert refused[QueueFullError]
    assert refused[DeadlineError]
    assert outcomes.keys() >= {"length", "scored", "cancelled", "deadline", "draining", "error"}
    assert len(metrics.ended) == len(metrics.left_queue) == len(accepted)
    engine._core.check_integrity()
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_used_blocks) == (0, 0, 0)
    solos = Solos(loaded, weights, {"deterministic": True} | _BLOCKS)
    for sent in accepted:
        check_bits(sent, solos)
