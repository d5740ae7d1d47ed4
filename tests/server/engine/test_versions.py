"""Versions come and go under load, through both tiers: every answer is one version's own, and what
is superseded leaves nothing behind."""

import gc
import random
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from server.adapters.artifact import ArtifactLimits
from server.adapters.store import AdapterStore, Reference
from server.adapters.tiers import AdapterTiers, TierLimits
from server.errors import AdapterMemoryError, AdapterNotFoundError, RequestCancelledError
from server.metrics import Metrics
from server.models.loader import LoadedBase
from server.types import AdapterChange, AdapterEvent, Finished, Request, Tier
from tests.server.engine.conftest import Tiny
from tests.server.engine.harness import Driver, HeldAdapter, Inbox, Later
from tests.tiny import lora_config, make_adapter, prompt_config
from understudy.store import publish

_NAMES = ("a", "b")
_PROMPTS = [tuple(random.Random(i).choices(range(1, 320), k=5 + 7 * i)) for i in range(4)]
_MAX_TOKENS = 6

Solos = dict[tuple[str, tuple[int, ...]], tuple[int, ...]]
"""Greedy tokens alone, by version and prompt."""


@pytest.fixture(scope="module")
def artifacts(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("versions")
    configs = [lora_config(), prompt_config(), lora_config(), lora_config()]
    return [
        make_adapter(tiny.base, root / str(seed), config, name="any", seed=seed)
        for seed, config in enumerate(configs)
    ]


@dataclass
class Sent:
    inbox: Inbox
    request: Request
    version: str
    prompt: tuple[int, ...]


class Service:
    """Tiers and an engine, put together as the server does; messages reach the engine late."""

    def __init__(
        self, loaded: LoadedBase, store: Path, seed: int, max_host_bytes: int, **config: object
    ) -> None:
        self.random = random.Random(seed)
        self.later = Later()
        self.driver = Driver(loaded, loader=self.later, deterministic=True, **config)
        self.orders: list[tuple[object, ...]] = []
        self.told: list[AdapterEvent] = []
        self.tiers = AdapterTiers(
            loaded.info,
            AdapterStore(store),
            TierLimits(ArtifactLimits(1 << 20, 64, max_host_bytes), (store.parent,)),
            Metrics(),
            on_freed=lambda *key: self.orders.append(("evict", *key)),
            on_change=self.told.append,
            on_pinned=lambda *args: self.orders.append(("pin", *args)),
        )
        self.sent: list[Sent] = []

    def ask(self, reference: Reference) -> None:
        lease = self.tiers.try_acquire(reference)
        if lease is None:
            try:
                lease = self.tiers.try_acquire(self.tiers.prepare(reference))
            except (AdapterNotFoundError, AdapterMemoryError):
                return
        assert lease is not None
        prompt, held = self.random.choice(_PROMPTS), cast(HeldAdapter, lease)
        request = self.driver.request(
            prompt, held, max_tokens=self.random.randrange(1, _MAX_TOKENS + 1)
        )
        self.deliver()
        self.sent.append(Sent(self.driver.submit(request), request, lease.version, prompt))

    def deliver(self) -> None:
        """What tiers told the engine; before new requests, as the engine takes it."""
        orders, self.orders = self.orders, []
        for kind, *args in orders:
            getattr(self.driver.core, str(kind))(*args)
            self.driver.core.check_integrity()

    def step(self) -> None:
        self.deliver()
        self.later.finish(min(len(self.later.jobs), self.random.choice([0, 1, 5])))
        self.driver.step()

    def finish(self) -> None:
        while self.driver.core.has_work or self.later.jobs:
            self.step()
        self.step()


def _publish(artifacts: list[Path], root: Path) -> list[str]:
    """Every version under every name, in a store; returns the versions."""
    for name in _NAMES:
        versions = [publish(artifact, root / "store", name) for artifact in artifacts]
    return versions


@pytest.mark.parametrize("seed", range(4))
def test_random_versions_under_load(
    seed: int, loaded: LoadedBase, artifacts: list[Path], tmp_path: Path
) -> None:
    generator = random.Random(seed)
    versions = _publish(artifacts, tmp_path)
    service = Service(
        loaded,
        tmp_path / "store",
        seed,
        max_host_bytes=generator.choice([40_000, 1 << 20]),
        num_adapter_slots=generator.choice([2, 8]),
        max_batch_size=generator.choice([2, 6]),
        block_size=4,
        num_blocks=60,
    )
    tiers = service.tiers
    for _ in range(80):
        name, version = generator.choice(_NAMES), generator.choice(versions)
        chance = generator.random()
        try:
            if chance < 0.15:
                tiers.load(name, str(tmp_path / "store" / name / version), generator.random() < 0.1)
            elif chance < 0.2:
                tiers.unload(Reference(name, generator.choice(["", version])))
            elif chance < 0.3:
                tiers.pin(Reference(name, version), generator.random() < 0.5)
            elif chance < 0.35 and service.sent:
                service.driver.core.cancel(generator.choice(service.sent).request.request_id)
        except (AdapterNotFoundError, AdapterMemoryError):
            pass
        for _ in range(generator.choice([0, 1, 2])):
            service.ask(Reference(generator.choice(_NAMES), generator.choice(["", "", version])))
        service.step()
    service.finish()
    solos = _solos(loaded, tmp_path / "store", versions)
    assert len({sent.version for sent in service.sent}) > 1
    for sent in service.sent:
        _check_answer(sent, solos)
    del sent
    _check_nothing_is_left(service)


def _check_answer(sent: Sent, solos: Solos) -> None:
    if isinstance(sent.inbox.terminal, Finished):
        token_ids = sent.inbox.finished.token_ids
        assert token_ids == solos[sent.version, sent.prompt][: len(token_ids)]
    else:
        assert isinstance(sent.inbox.error, RequestCancelledError)


def _solos(loaded: LoadedBase, store: Path, versions: list[str]) -> Solos:
    found = {}
    tiers = Service(loaded, store, 0, 1 << 20).tiers
    for version in versions:
        lease = tiers.try_acquire(tiers.prepare(Reference("a", version)))
        assert lease is not None
        driver = Driver(loaded, deterministic=True)
        held = HeldAdapter("a", lease.weights, version)
        inboxes = [driver.add(prompt, held, max_tokens=_MAX_TOKENS) for prompt in _PROMPTS]
        driver.run()
        for prompt, inbox in zip(_PROMPTS, inboxes, strict=True):
            found[version, prompt] = inbox.finished.token_ids
    return found


def _check_nothing_is_left(service: Service) -> None:
    tiers = service.tiers
    assert not any(resident.num_leases for resident in tiers.residents().values())
    weights = [weakref.ref(r.adapter.weights) for r in tiers.residents().values()]
    service.sent.clear()
    for name, version in tiers.residents():
        tiers.unload(Reference(name, version))
    service.finish()
    assert tiers.residents() == {}
    stats = service.driver.core.stats()
    assert stats.slots == ()
    assert (stats.num_used_blocks, stats.num_cached_blocks) == (0, 0)
    gc.collect()
    assert [ref() for ref in weights] == [None] * len(weights)
    # The events tell the same story: whatever was loaded is gone.
    last = {
        (event.name, event.version): event.tier
        for event in service.told
        if event.kind in (AdapterChange.LOADED, AdapterChange.TIER)
    }
    assert set(last.values()) == {Tier.DISK}


def test_a_superseded_version_leaves_every_tier_with_its_last_lease(
    loaded: LoadedBase, artifacts: list[Path], tmp_path: Path
) -> None:
    old, new = _publish(artifacts[:1] + artifacts[2:3], tmp_path)
    service = Service(loaded, tmp_path / "store", 0, 1 << 20, block_size=4)
    tiers, core = service.tiers, service.driver.core
    tiers.load("a", str(tmp_path / "store" / "a" / old), False)
    service.ask(Reference("a"))
    service.step()
    while not core.stats().slots:
        service.step()
    resident = tiers.residents()["a", old]
    gone = weakref.ref(resident.adapter.weights)
    del resident
    tiers.load("a", str(tmp_path / "store" / "a" / new), False)
    assert ("a", old) in tiers.residents()
    service.ask(Reference("a"))
    assert [sent.version for sent in service.sent] == [old, new]
    service.finish()
    assert all(sent.inbox.finished for sent in service.sent)
    assert tiers.residents().keys() == {("a", new)}
    assert core.stats().slots == (f"a@{new}",)
    service.sent.clear()
    gc.collect()
    assert gone() is None
    cached = core.stats().num_cached_blocks
    assert cached > 0
    tiers.unload(Reference("a"))
    service.step()
    assert core.stats().num_cached_blocks == 0
