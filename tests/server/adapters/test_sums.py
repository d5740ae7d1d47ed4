"""Sums of adapters: what they compute, who shares them, and when they go."""

import gc
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from server.adapters.artifact import AdapterVersion
from server.adapters.lease import AdapterLease
from server.adapters.sums import AdapterSums, SumLease
from server.adapters.weights import AdapterWeights, NormChange
from server.errors import AdapterMemoryError, InvalidRequestError
from server.models.loader import LoadedBase, load_base
from tests.server.engine import oracle
from tests.server.engine.harness import Driver, read_adapter
from tests.server.engine.kinds import TOLERANCE, difference
from tests.tiny import make_adapter, make_base

_TASK = {"task_type": "CAUSAL_LM"}
_CONFIGS: dict[str, peft.PeftConfig] = {
    "a": peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], **_TASK),
    "b": peft.LoraConfig(r=7, lora_alpha=3, target_modules=["v_proj", "up_proj"], **_TASK),
    "c": peft.LoraConfig(r=2, use_rslora=True, target_modules=["q_proj", "o_proj"], **_TASK),
    "bias": peft.LoraConfig(r=2, lora_bias=True, target_modules=["q_proj", "o_proj"], **_TASK),
    "dora": peft.LoraConfig(r=2, use_dora=True, target_modules=["q_proj"], **_TASK),
    "ia3": peft.IA3Config(target_modules=["v_proj"], feedforward_modules=[], **_TASK),
    "prompt": peft.PromptTuningConfig(num_virtual_tokens=5, **_TASK),
}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sums")
    base = make_base(root / "base")
    return {"base": base} | {
        name: make_adapter(base, root / name, config, name=name, seed=seed)
        for seed, (name, config) in enumerate(_CONFIGS.items())
    }


@pytest.fixture(scope="module")
def base(paths: dict[str, Path]) -> LoadedBase:
    return load_base(paths["base"], quantization="none")


class Leases:
    """Leases on the adapters, and which of them were released."""

    def __init__(self, paths: dict[str, Path], base: LoadedBase) -> None:
        self._paths, self._base = paths, base
        self.released: list[str] = []

    def __call__(self, name: str, version: str = "v1") -> AdapterLease:
        if name == "norms":
            weights = AdapterWeights(norms={"model.norm": NormChange(torch.ones(64))})
        else:
            weights = read_adapter(self._paths[name], self._base.info)
        adapter = AdapterVersion(name, version, "", weights, None, "", Path(), "", "")
        return AdapterLease(adapter, lambda: self.released.append(name))


@pytest.fixture
def leases(paths: dict[str, Path], base: LoadedBase) -> Leases:
    return Leases(paths, base)


@pytest.fixture
def evicted() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def sums(evicted: list[tuple[str, str]]) -> AdapterSums:
    return AdapterSums(64, 1 << 30, lambda name, version: evicted.append((name, version)))


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (("a", "b"), (1.0, 1.0)),
        (("a", "b", "c"), (0.7, -0.4, 1.5)),
        (("b",), (0.3,)),
        (("b", "a"), (0.0, 2.0)),
    ],
)
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_sum_is_pefts(
    paths: dict[str, Path],
    leases: Leases,
    sums: AdapterSums,
    names: tuple[str, ...],
    weights: tuple[float, ...],
    quantization: str,
) -> None:
    loaded = load_base(paths["base"], quantization=quantization)
    lease = sums.acquire([(leases(n), w) for n, w in zip(names, weights, strict=True)])
    driver = Driver(loaded)
    prompt = tuple(range(40, 60))
    options: dict[str, Any] = {"max_tokens": 5, "num_logprobs": loaded.info.vocab_size}
    beside = driver.add(prompt, leases(names[0]), **options)
    inbox = driver.add(prompt, lease, **options)
    driver.run()
    model = oracle.load(paths["base"], quantization, paths[names[0]])
    assert isinstance(model, peft.PeftModel)
    solo = oracle.greedy(model, prompt, 5)
    assert beside.finished.token_ids == solo.token_ids
    for name in names:
        model.load_adapter(paths[name], f"of-{name}")
    # The first decides the sum's own scaling: a rank-stabilised one would be scaled twice.
    model.add_weighted_adapter(
        [f"of-{name}" for name in names],
        list(weights),
        "total",
        combination_type="cat",
    )
    model.set_adapter("total")
    solo = oracle.greedy(model, prompt, 5)
    assert inbox.finished.token_ids == solo.token_ids
    assert difference(inbox.finished, solo) <= TOLERANCE[quantization]
    assert leases.released.count(names[0]) == 2


def test_summands_of_the_output(leases: Leases, sums: AdapterSums) -> None:
    one = leases("bias").adapter.weights
    total = sums.acquire([(leases("bias"), 0.5), (leases("a"), 1.0), (leases("b"), 1.0)]).weights
    for path, change in one.linears.items():
        shift = total.linears[path].shift
        assert shift is not None
        assert change.shift is not None
        assert torch.equal(shift, change.shift * 0.5)
    twice = sums.acquire([(leases("bias"), 0.5), (leases("bias", "v2"), 0.25)]).weights
    path, change = next(iter(one.linears.items()))
    assert change.shift is not None
    torch.testing.assert_close(twice.linears[path].shift, change.shift * 0.75)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dora", "is DoRA, which scales"),
        ("ia3", "by more than a low-rank update"),
        ("prompt", "has virtual tokens"),
        ("norms", "changes more than linears"),
    ],
)
def test_what_does_not_add_up(leases: Leases, sums: AdapterSums, name: str, reason: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        sums.acquire([(leases("a"), 1.0), (leases(name), 1.0)])
    assert "adapters[1].adapter" in str(error.value)
    assert reason in str(error.value)


def test_ranks_add_up(leases: Leases) -> None:
    small = AdapterSums(10, 1 << 30, lambda *_: None)
    small.acquire([(leases("a"), 1.0), (leases("c"), 1.0)])
    with pytest.raises(InvalidRequestError, match="add up to 11, above this server's max_lora_ra"):
        small.acquire([(leases("a"), 1.0), (leases("b"), 1.0)])


def test_requests_share_a_sum(leases: Leases, sums: AdapterSums) -> None:
    def acquire(version: str = "v1", weight: float = 1.0) -> SumLease:
        return sums.acquire([(leases("a", version), weight), (leases("b"), 1.0)])

    first, second = acquire(), acquire()
    assert first.total is second.total
    assert first.name == "a+b"
    assert first.version.startswith("sum-")
    others = [acquire(weight=0.5), acquire("v2"), sums.acquire([(leases("b"), 1.0)])]
    assert len({first.version, *(other.version for other in others)}) == 4
    assert isinstance(first.weights, AdapterWeights)
    del first, second, others
    gc.collect()
    assert not sums._alive


def test_sums_that_requests_hold_are_bounded(leases: Leases) -> None:
    """Each weight makes another sum: none of them is in the budget of the versions."""
    alone = AdapterSums(64, 1 << 30, lambda *_: None).acquire([(leases("a"), 1.0)])
    num_bytes = alone.weights.size_bytes
    sums = AdapterSums(64, 2 * num_bytes, lambda *_: None)
    held = [sums.acquire([(leases("a"), weight)]) for weight in (0.5, 1.5)]
    again = sums.acquire([(leases("a"), 0.5)])
    assert again.total is held[0].total
    with pytest.raises(AdapterMemoryError, match=f"needs {num_bytes} bytes; the sums of other"):
        sums.acquire([(leases("a"), 2.5)])
    del held, again
    gc.collect()
    assert sums.acquire([(leases("a"), 2.5)]).weights.size_bytes == num_bytes


def test_a_version_that_leaves_takes_its_sums_along(
    leases: Leases, sums: AdapterSums, evicted: list[tuple[str, str]]
) -> None:
    gone = sums.acquire([(leases("a"), 1.0), (leases("b"), 1.0)])
    also = sums.acquire([(leases("a"), 0.5)])
    stays = sums.acquire([(leases("a", "v2"), 1.0), (leases("b"), 1.0)])
    sums.forget("a", "v1")
    assert evicted == [(gone.name, gone.version), (also.name, also.version)]
    sums.forget("a", "v1")
    assert len(evicted) == 2
    sums.forget("b", "v1")
    assert evicted[2:] == [(stays.name, stays.version)]


def test_forgotten_sums_do_not_pile_up(
    leases: Leases, sums: AdapterSums, evicted: list[tuple[str, str]]
) -> None:
    lease = leases("c")
    first = sums.acquire([(lease, 1e-3)])
    for i in range(1, 1025):
        sums.acquire([(lease, 1e-3 * (i + 1))])
    assert evicted == [(first.name, first.version)]
