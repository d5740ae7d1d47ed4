"""Our servers, each a process with a gRPC door, and the engine alone."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from tests.bench.child import ChildError
from tests.bench.load import Load, Round, least_recent_first, play, prompts, touch, zipf
from tests.bench.plan import CACHE_BYTES, NUM_LORA, Disk
from tests.bench.rounds import WARM, Variant
from tests.bench.shape import MANY_RANK, SOFT_PROMPT, drop_page_cache
from tests.process import ServerProcess, start
from understudy import Client, UnderstudyError

_BF16 = ("--quantization", "none", "--dtype", "bfloat16")
_NF4 = ("--quantization", "nf4", "--dtype", "bfloat16", "--weight-form")


class Servers:
    """One server for each configuration, all running."""

    def __init__(self, disk: Disk, stack: ExitStack) -> None:
        """Starts them; they end with `stack`."""
        plan = disk.plan
        self._disk = disk
        self._started: list[ServerProcess] = []
        stack.callback(self._stop)
        asked = sorted({name for seed in plan.seeds for name in self._zipf(seed)})
        all_bytes = plan.many * plan.shape.lora_bytes(MANY_RANK)
        capped = f"adapters.max_host_bytes={plan.host_bytes}"
        # Room for all of them beside the others', so that none ever leaves.
        roomy = f"adapters.max_host_bytes={all_bytes + (1 << 30)}"
        slots = f"engine.num_adapter_slots={len(asked) + len(disk.lora) + 1}"
        configurations: dict[str, Sequence[str]] = {
            "bf16": (*_BF16, "--set", roomy, "--set", slots),
            "nf4_packed": (*_NF4, "nf4_packed"),
            "nf4_held": (*_NF4, "nf4_held"),
            "bf16_capped": (*_BF16, "--set", capped),
        }
        with ThreadPoolExecutor(plan.threads) as pool:
            started = pool.map(self._start, configurations, configurations.values())
            self.processes = dict(zip(configurations, started, strict=True))
        # As a stream that never began would have left it, so that no round is easier than later
        # ones would be.
        fitting = min(plan.many, plan.host_bytes // plan.shape.lora_bytes(MANY_RANK))
        recent = least_recent_first(disk.many, fitting, "before")
        asyncio.run(touch(self.processes["bf16_capped"].address, recent))
        asyncio.run(touch(self.processes["bf16"].address, asked))

    def resident_bytes(self) -> dict[str, int]:
        """Bytes of the base's weights, as each weight form's server reports them."""
        found = {}
        for name in ("bf16", "nf4_packed", "nf4_held"):
            with Client(self.processes[name].address) as client:
                found[name] = client.model_info().resident_bytes
        return found

    def num_loads(self) -> int:
        """Adapters that the server of `lora1000` has read from disk."""
        return int(
            self.processes["bf16_capped"].sample(
                "understudy_adapter_load_seconds_count", tier="host"
            )
        )

    def variants(self) -> list[Variant]:
        """What is measured on them."""
        mixed = self._disk.in_turn(NUM_LORA, self._disk.plan.load.concurrency)
        # Half LoRAs (all of them), a quarter soft prompt, a quarter bare base, side by side.
        soft = [n for name in mixed[: len(mixed) // 2] for n in (name, "")]
        soft[1::4] = [SOFT_PROMPT] * len(soft[1::4])
        base = self._disk.in_turn(0, len(mixed))
        return [
            self._variant("ours.base", "bf16", "base", base),
            self._variant("ours.lora8", "bf16", "lora8", mixed),
            self._variant("ours.lora8_soft", "bf16", "lora8_soft", soft),
            self._variant("ours.nf4_packed", "nf4_packed", "base", base),
            self._variant("ours.nf4_held", "nf4_held", "base", base),
            self._variant("ours.nf4_lora8", "nf4_held", "lora8", mixed),
            self._many("ours.lora1000", "bf16_capped"),
            self._many("ours.lora1000_resident", "bf16"),
            self._variant("stream.base", "bf16", "stream_base", base, stream=True),
            self._variant("stream.lora8", "bf16", "stream_lora8", mixed, stream=True),
        ]

    def sweep(self, num_adapters: int) -> Variant:
        """So many distinct adapters in the batch."""
        names = self._disk.in_turn(num_adapters, self._disk.plan.load.concurrency)
        return self._variant(f"ours.{num_adapters}", "bf16", f"sweep{num_adapters}", names)

    def _variant(
        self, name: str, server: str, kind: str, adapters: Sequence[str], *, stream: bool = False
    ) -> Variant:
        """`kind` seeds the prompts: those of one server must differ, as it caches them."""
        process = self.processes[server]

        def run(seed: str, load: Load) -> Round:
            done = self._play(process, adapters, f"{kind}/{seed}", load, stream)
            if done.num_cached_tokens and SOFT_PROMPT not in adapters:
                raise RuntimeError(f"{name}: a round met prompts of another in the prefix cache")
            return done

        return Variant(name, process.process.pid, run)

    def _many(self, name: str, server: str) -> Variant:
        disk, process = self._disk, self.processes[server]

        def run(seed: str, load: Load) -> Round:
            adapters = self._zipf(seed)
            if seed == WARM:
                # Which adapters are in memory is part of what is measured.
                adapters = [""] * len(adapters)
            # What this machine has just written, it would otherwise read from memory.
            drop_page_cache(
                path for adapter in disk.many for path in disk.directories[adapter].iterdir()
            )
            return self._play(process, adapters, f"many/{seed}", load, stream=False)

        return Variant(name, process.process.pid, run)

    def _play(
        self, server: ServerProcess, adapters: Sequence[str], seed: str, load: Load, stream: bool
    ) -> Round:
        wanted = prompts(self._disk.plan.shape, load, len(adapters), seed)
        requests = list(zip(adapters, wanted, strict=True))
        try:
            return asyncio.run(play(server.address, requests, load, stream=stream))
        except (ExceptionGroup, UnderstudyError) as error:
            code, tail = server.process.poll(), server.log.read_text().splitlines()[-20:]
            fault = repr(error) if code is None else f"it ended with exit code {code}"
            raise ChildError("\n".join([f"a server failed: {fault}", *tail])) from error

    def _zipf(self, seed: str) -> list[str]:
        return zipf(self._disk.many, self._disk.plan.many_requests, seed)

    def _start(self, name: str, arguments: Sequence[str]) -> ServerProcess:
        folder = self._disk.folder / f"server-{name}"
        folder.mkdir()
        where = ("--base", self._disk.base, "--store", self._disk.store)
        common = (*where, "--log-level", "warning", "--set", f"engine.cache_bytes={CACHE_BYTES}")
        server = start(folder, (*common, *arguments), self._disk.plan.threads)
        self._started.append(server)
        return server

    def _stop(self) -> None:
        # Told at once, so that they end beside each other.
        for server in self._started:
            server.process.terminate()
        for server in self._started:
            server.process.wait()
