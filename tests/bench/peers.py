"""vLLM's CPU build, from an environment of its own."""

import ctypes.util
from contextlib import ExitStack
from pathlib import Path

from tests.bench.child import Child
from tests.bench.children import child_variant, start_child
from tests.bench.plan import NUM_LORA, Disk
from tests.bench.rounds import Clock, Variant
from tests.bench.shape import RANKS


class Peers:
    """Two vLLM engines: one with LoRA, one without, as it pays for LoRA also where none is used."""

    def __init__(self, disk: Disk, stack: ExitStack, clock: Clock, environment: Path) -> None:
        """Starts them, with the Python of `environment`; they end with `stack`."""
        self._disk = disk
        self.versions: dict[str, str] = {}
        self._bare = self._start(stack, environment, "vllm", 0)
        self._lora = self._start(stack, environment, "vllm_lora", NUM_LORA)
        clock.say("started vLLM, once without LoRA and once with")

    def variants(self) -> list[Variant]:
        """What is measured on them."""
        count = self._disk.plan.load.concurrency
        names = self._disk.in_turn(NUM_LORA, count)
        return [
            child_variant(self._disk, self._bare, "vllm.base", "base", [""] * count),
            child_variant(self._disk, self._lora, "vllm.lora8", "lora8", names),
        ]

    def sweep(self, num_adapters: int) -> Variant:
        """So many distinct adapters in the batch, at most NUM_LORA."""
        names = self._disk.in_turn(num_adapters, self._disk.plan.load.concurrency)
        child = self._lora if num_adapters else self._bare
        return child_variant(
            self._disk, child, f"vllm.{num_adapters}", f"sweep{num_adapters}", names
        )

    def _start(self, stack: ExitStack, environment: Path, name: str, num_lora: int) -> Child:
        python = environment / "bin" / "python"
        plan = self._disk.plan
        # What vLLM's manual asks for on CPUs. By default it would leave one processor of two idle.
        variables = {
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, range(plan.threads))),
            "LD_PRELOAD": ":".join(_preloaded(environment)),
        }
        child = start_child(
            self._disk, stack, name, [str(python), "-m", "tests.bench.vllm_worker"], **variables
        )
        names = self._disk.lora[:num_lora]
        loaded = child.ask(
            "load",
            base=str(self._disk.base),
            adapters={name: str(self._disk.directories[name]) for name in names},
            max_rank=max(RANKS),
            context=4 * (plan.load.prompt_tokens + plan.load.output_tokens),
        )
        self.versions = loaded["versions"]
        return child


def _preloaded(environment: Path) -> list[str]:
    """Intel's OpenMP, which comes with vLLM's CPU build, and tcmalloc where it is installed."""
    found = [str(path) for path in (environment / "lib").glob("libiomp5.so")]
    tcmalloc = ctypes.util.find_library("tcmalloc_minimal")
    return [*found, tcmalloc] if tcmalloc else found
