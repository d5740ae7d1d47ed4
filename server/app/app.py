"""Composition root: puts a server together, starts it, and takes it down in order.

Start: bind the ports, answer health checks with NOT_SERVING, load the base, start the engine,
preload adapters, take calls. Stop: refuse new calls, let running ones finish, close.
"""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from server.adapters.artifact import ArtifactLimits
from server.adapters.catalog import Catalog
from server.adapters.remote import RemoteLimits, RemoteSources
from server.adapters.store import AdapterStore, parse_reference
from server.adapters.sums import AdapterSums
from server.adapters.tiers import AdapterTiers, TierLimits
from server.adapters.totals import StoreTotals
from server.adapters.watcher import StoreWatcher
from server.app.machine import bind, detect_hardware, in_daemon_thread
from server.config import ServerConfig, resolve
from server.constraints.compiler import GrammarCompiler
from server.engine.engine import Engine
from server.engine.loader import Loader
from server.errors import ServerError, StartupError
from server.metrics import Metrics, MetricsServer
from server.models.checks import check_directory
from server.models.loader import LoadedBase, load_base
from server.models.processor import compute_with
from server.rpc.adapters import AdapterServer
from server.rpc.admission import Admission
from server.rpc.constraints import ConstraintDesk
from server.rpc.events import EventBridge
from server.rpc.generation import GenerationServer
from server.rpc.leases import LeaseDesk
from server.rpc.prompts import PromptEncoder
from server.rpc.server import RpcServer
from server.rpc.watch import AdapterFeed
from server.types import AdapterEvent

_LOG = logging.getLogger(__name__)
# Questions about adapters, which read the disk, that are answered at a time.
_ADAPTER_READERS = 4
# Adapters that are fetched from elsewhere at a time.
_DOWNLOADS = 2


class App:
    """One server. `start` once, then `stop` once; two can live in one process."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = resolve(config, detect_hardware())
        self.metrics = Metrics(self.config.metrics.max_adapter_labels)
        self.rpc = RpcServer(self.config.listen, self.metrics)
        self.metrics_server: MetricsServer | None = None
        self.engine: Engine | None = None
        self.feed: AdapterFeed | None = None
        # Only the engine's thread computes with more than one: see `run`.
        self._executor = ThreadPoolExecutor(
            _ADAPTER_READERS, "catalog", initializer=compute_with, initargs=(1,)
        )
        self._loader = Loader(self.config.adapters.load_share, self._is_busy)
        # One: a grammar takes a core, and the engine needs the others.
        self._grammar_executor = ThreadPoolExecutor(1, "grammars")
        self._compiler: GrammarCompiler | None = None
        adapters = self.config.adapters
        if adapters.store is not None and not adapters.store.is_dir():
            # Publishing makes it, so this may be a fresh start; or a slip of the hand.
            _LOG.warning("store %s: no such directory (yet); it has no adapters", adapters.store)
        self._store = AdapterStore(adapters.store)
        cache = adapters.cache or (adapters.store / ".downloads" if adapters.store else None)
        self._remote = RemoteSources(
            adapters.remote_sources,
            cache,
            RemoteLimits(adapters.max_adapter_bytes, adapters.download_timeout_s),
            self.metrics,
        )
        self._downloader = ThreadPoolExecutor(_DOWNLOADS, "downloads")
        # One, for aliases move one after the other.
        self._mover = ThreadPoolExecutor(1, "aliases")
        self._watching: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """HOST:PORT of gRPC, once `start` has bound it."""
        return self.rpc.address

    @property
    def metrics_url(self) -> str:
        """Where Prometheus scrapes, once `start` has bound it."""
        assert self.metrics_server is not None, "not started"
        host = self.config.listen.host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.metrics_server.port}/metrics"

    async def start(self) -> None:
        """Returns when calls are taken. Raises StartupError with one line."""
        check_directory(self.config.base.directory)
        self.metrics_server = bind(self.config.listen, self.metrics)
        await self.rpc.listen()
        base, num_threads = self.config.base, self.config.engine.num_threads
        assert num_threads is not None, "resolved"
        _LOG.info("%s answers health checks; loading %s", self.address, base.directory)

        def load() -> LoadedBase:
            compute_with(num_threads)
            return load_base(
                base.directory,
                quantization=base.quantization,
                dtype=base.dtype,
                device=base.device,
                weight_form=base.weight_form,
                name=base.name,
                deterministic=self.config.engine.deterministic,
                kernels=base.kernels,
                attention=base.attention,
                nf4_table=base.nf4_table,
            )

        loaded = await in_daemon_thread(load)
        info = loaded.info
        kernels = "torch" if loaded.kernels is None else loaded.kernels.name
        _LOG.info(
            "loaded %s: %s on %s, %s kernels, %d threads",
            info.name, info.weight_form, info.device, kernels, num_threads,
        )  # fmt: skip
        feed = AdapterFeed(asyncio.get_running_loop(), self.config.limits.max_watch_events)
        self.feed = feed

        def on_change(event: AdapterEvent) -> None:
            self.metrics.adapter_changed(event)
            feed.observe(event)

        self.engine = Engine(
            loaded,
            self.config.engine,
            self.metrics,
            on_change=on_change,
            loader=self._loader.ahead,
        )
        self.engine.start()
        generation, adapters = self._services(loaded, self.engine, feed)
        for reference in self.config.adapters.preload:
            await self._preload(adapters.tiers, reference)
        if self.config.adapters.watch_store_s:
            watcher = StoreWatcher(adapters.tiers, self._loader)
            self._watching = asyncio.create_task(self._watch(watcher))
        self.metrics.serving(
            False,
            {
                "base_model": info.name,
                "fingerprint": info.fingerprint,
                "quantization": info.quantization,
                "dtype": info.dtype,
                "device": info.device,
            },
        )
        await self.rpc.serve(generation, adapters)

    async def stop(self, drain_s: float | None = None) -> None:
        """Refuses new calls, gives running ones `drain_s` (default: as configured), closes all.

        Also after a `start` that failed or was cancelled.
        """
        if drain_s is None:
            drain_s = self.config.listen.drain_s
        await self.rpc.drain()
        if self._watching is not None:
            self._watching.cancel()
        if self.feed is not None:
            self.feed.close()
        if self.engine is not None:
            await asyncio.to_thread(self.engine.stop, drain_s)
        await self.rpc.close()
        self._loader.shutdown(wait=False, cancel_futures=True)
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._remote.close()
        self._downloader.shutdown(wait=False, cancel_futures=True)
        self._mover.shutdown(wait=False, cancel_futures=True)
        self._grammar_executor.shutdown(wait=False, cancel_futures=True)
        if self._compiler is not None:
            await asyncio.to_thread(self._compiler.close)
        self._store.close()
        if self.metrics_server is not None:
            self.metrics_server.close()

    def _is_busy(self) -> bool:
        return self.engine is not None and self.engine.stats().num_running > 0

    def _services(
        self, loaded: LoadedBase, engine: Engine, feed: AdapterFeed
    ) -> tuple[GenerationServer, AdapterServer]:
        # What can run here: the cache may hold less than the model's context.
        info = replace(loaded.info, max_context_tokens=engine.max_context)
        adapters = self.config.adapters
        assert adapters.max_host_bytes is not None, "resolved"
        sums = AdapterSums(self.config.engine.max_lora_rank, adapters.max_host_bytes, engine.evict)

        def freed(name: str, version: str) -> None:
            engine.evict(name, version)
            sums.forget(name, version)

        tiers = AdapterTiers(
            info,
            self._store,
            TierLimits(
                artifact=ArtifactLimits(
                    max_bytes=adapters.max_adapter_bytes,
                    max_lora_rank=self.config.engine.max_lora_rank,
                    max_host_bytes=adapters.max_host_bytes,
                ),
                roots=adapters.roots,
            ),
            self.metrics,
            on_freed=freed,
            on_pinned=engine.pin,
            on_change=feed.observe,
            breathe=self._loader.breathe,
        )
        catalog = Catalog(
            tiers,
            lambda: engine.stats().slots,
            self.config.engine.num_adapter_slots,
            StoreTotals(self._store, self._executor).read,
        )
        self.metrics.watch_engine(engine.stats, self.config.engine.block_size)
        self.metrics.watch_adapters(catalog.residency)
        admission = Admission(
            engine,
            LeaseDesk(tiers, self._loader, self._executor, self.metrics, engine.is_placed, sums),
            EventBridge(asyncio.get_running_loop()),
            self.metrics,
        )
        limits = self.config.limits
        self._compiler = GrammarCompiler(
            loaded.tokenizer, info.vocab_size, loaded.eos_token_ids, limits.max_constraint_s
        )
        generation = GenerationServer(
            admission=admission,
            encoder=PromptEncoder(loaded.tokenizer, info.vocab_size, info.max_context_tokens),
            constraints=ConstraintDesk(self._compiler, self._grammar_executor),
            info=info,
            engine_config=self.config.engine,
            limits=limits,
            metrics=self.metrics,
        )
        return generation, AdapterServer(
            tiers=tiers,
            catalog=catalog,
            executor=self._executor,
            loader=self._loader,
            remote=self._remote,
            downloader=self._downloader,
            mover=self._mover,
            feed=feed,
        )

    async def _preload(self, tiers: AdapterTiers, reference: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            wanted = parse_reference(reference, "adapters.preload")
            await loop.run_in_executor(self._loader, tiers.prepare, wanted)
        except ServerError as error:
            raise StartupError(f"cannot preload {reference!r}: {error}") from error

    async def _watch(self, watcher: StoreWatcher) -> None:
        """Looks at the store every now and then, and loads beside whatever else loads."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.config.adapters.watch_store_s)
            try:
                for name in await loop.run_in_executor(self._executor, watcher.look):
                    await loop.run_in_executor(self._mover, watcher.follow, name)
            except Exception:
                # The store's disk may come back.
                _LOG.exception("cannot look at the store")
