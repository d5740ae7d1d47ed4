"""All processes, started, and what they are asked."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench.child import Child
from tests.bench.children import child_variant, start_module
from tests.bench.figures import Facts
from tests.bench.load import prompts
from tests.bench.ours import Servers
from tests.bench.peers import Peers
from tests.bench.plan import NUM_LORA, SWEEP, Disk
from tests.bench.rounds import Clock, Results, Variant, run


class BenchError(RuntimeError):
    """The benchmark cannot go on. The message says why."""


@dataclass(frozen=True)
class Extras:
    """What is measured beside the usual."""

    sweep: bool = False
    """Throughput by number of distinct adapters."""
    bitsandbytes: bool = False
    """transformers on the NF4 base."""
    peers: Path | None = None
    """vLLM, from this environment."""


class Bench:
    """All processes, started, and what they are asked."""

    def __init__(self, disk: Disk, stack: ExitStack, clock: Clock, extras: Extras) -> None:
        self._disk, self._clock = disk, clock
        self._engine = start_module(
            disk,
            stack,
            "engine",
            "engine_alone",
            GOMP_SPINCOUNT="20000",  # As the server's.
        )
        self._engine.send("load", base=str(disk.base), store=str(disk.store))
        self._servers = Servers(disk, stack)
        self._engine.receive()
        clock.say(f"started {len(self._servers.processes)} servers, and an engine alone")
        self._peft, settings = _start_peft(disk, stack, max(SWEEP) if extras.sweep else NUM_LORA)
        clock.say(f"started transformers and PEFT; fastest with {settings}")
        self._bnb: Child | None = None
        if extras.bitsandbytes:
            self._bnb, settings_bnb = _start_peft(disk, stack, 0, nf4=True)
            clock.say(f"started transformers with bitsandbytes; fastest with {settings_bnb}")
        self._peers = Peers(disk, stack, clock, extras.peers) if extras.peers else None
        versions = self._peers.versions if self._peers else {}
        self.facts = Facts(self._servers.resident_bytes(), settings, versions)
        self._num_loads = self._servers.num_loads()

    def play(self) -> Results:
        """Play all rounds. Raises BenchError."""
        plan = self._disk.plan
        variants = [*self._servers.variants(), *self._pair("engine", self._engine)]
        variants += self._pair("peft", self._peft)
        if self._bnb is not None:
            base = self._disk.in_turn(0, plan.load.concurrency)
            variants.append(
                child_variant(self._disk, self._bnb, "bitsandbytes.nf4_packed", "base", base)
            )
        if self._peers is not None:
            variants += self._peers.variants()
        # What is compared stands side by side, so that a slow minute meets both.
        kinds = [variant.name.partition(".")[2] for variant in variants]
        variants.sort(key=lambda variant: kinds.index(variant.name.partition(".")[2]))
        results = run(variants, plan.load, plan.seeds, self._clock, self._after_round)
        self.facts.lora1000_loads = self._servers.num_loads() - self._num_loads
        return results

    def sweep(self) -> None:
        """Measure by number of distinct adapters in the batch."""
        plan = self._disk.plan
        variants = []
        for n in SWEEP:
            variants.append(self._servers.sweep(n))
            adapters = self._disk.in_turn(n, plan.load.concurrency)
            variants.append(
                child_variant(self._disk, self._peft, f"peft.{n}", f"sweep{n}", adapters)
            )
            if self._peers is not None and n <= NUM_LORA:
                variants.append(self._peers.sweep(n))
        results = run(variants, plan.load, plan.seeds[: plan.sweep_rounds], self._clock)
        for variant in variants:
            engine, _, number = variant.name.partition(".")
            speed = round(results.speed(variant.name), 1)
            self.facts.sweep.setdefault(engine, {})[number] = speed

    def _pair(self, name: str, child: Child) -> list[Variant]:
        count = self._disk.plan.load.concurrency
        return [
            child_variant(self._disk, child, f"{name}.{kind}", kind, self._disk.in_turn(n, count))
            for kind, n in (("base", 0), ("lora8", NUM_LORA))
        ]

    def _after_round(self, results: Results) -> None:
        """Measure what the machine gives, and stop where the baseline is far below it."""
        plan = self._disk.plan
        answer = self._engine.ask("bandwidth", size=plan.read_bytes)
        self.facts.read_bytes_per_s.append(answer["bytes_per_s"])
        shapes = [*plan.shape.linears.values()] * plan.shape.layers
        shapes.append((plan.shape.vocab, plan.shape.hidden))
        rows = plan.load.concurrency
        rate = self._peft.ask("rate", shapes=shapes, rows=rows)["passes_per_s"] * rows
        self.facts.matmul_tokens_per_s.append(rate)
        speed = results.speeds("peft.base")[-1]
        if speed < plan.min_peft_share * rate:
            raise BenchError(
                f"transformers makes {speed:.0f} tokens/s; plain bf16 products alone would make "
                f"{rate:.0f} on this machine. Below {plan.min_peft_share:.0%} of that, the "
                f"baseline is not at its best. {results.foreign_cores[-1]:.1f} processors were "
                "busy with something else: is the machine in use?"
            )


def _start_peft(
    disk: Disk, stack: ExitStack, num_lora: int, *, nf4: bool = False
) -> tuple[Child, dict[str, str]]:
    """The baseline as it is fastest here, and what made it so.

    OpenMP's threads by default spin for a while before they sleep, which may help or hurt.
    """
    adapters = {name: str(disk.directories[name]) for name in disk.lora[:num_lora]}
    trial = prompts(disk.plan.shape, disk.plan.load, disk.plan.load.concurrency, "trial")
    found: list[tuple[float, Child, dict[str, str]]] = []
    policies: dict[str, dict[str, str]] = {"passive": {"OMP_WAIT_POLICY": "PASSIVE"}}
    if disk.plan.threads > 1:
        policies["default"] = {}
    for policy, variables in policies.items():
        name = f"peft-{policy}{'-nf4' if nf4 else ''}"
        child = start_module(disk, stack, name, "peft_baseline", **variables)
        answer = child.ask("load", base=str(disk.base), adapters=adapters, trial=trial, nf4=nf4)
        found.append((answer["trial_s"], child, {**answer["attention"], "omp_wait_policy": policy}))
    found.sort(key=lambda one: one[0])
    for _, child, _ in found[1:]:
        child.close()
    return found[0][1:]
