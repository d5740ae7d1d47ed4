"""The choice between two NF4 products by a table of timings."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import StartupError
from server.kernels import Kernels, load_native
from server.models.layers import LinearGroup
from server.models.loader import LoadedBase, load_base
from server.models.nf4_table import Nf4Table, ShapeTimings, Timing, measure, read_table
from server.models.weights import Nf4Weight
from tests.tiny import make_base

_CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("nf4") / "base")


@pytest.fixture
def load(base: Path) -> Callable[..., LoadedBase]:
    native = load_native()
    if native is None or not native.runs_linear(torch.bfloat16):
        pytest.skip("the native products were not compiled, or not for this CPU")

    def make(**options: Any) -> LoadedBase:
        return load_base(base, dtype="bfloat16", kernels="native", **options)

    return make


def _weights(base: LoadedBase) -> list[tuple[LinearGroup, Nf4Weight]]:
    return [(g, g.weight) for g in base.decoder.groups if isinstance(g.weight, Nf4Weight)]


def test_measuring_times_each_shape_once_and_the_file_holds_it(
    load: Callable[..., LoadedBase], tmp_path: Path
) -> None:
    loaded = load()
    table = measure([weight for _, weight in _weights(loaded)], rows=(1, 8))
    shapes = {tuple(weight.state.shape) for _, weight in _weights(loaded)}
    assert {(one.out_features, one.in_features) for one in table.shapes} == shapes
    for one in table.shapes:
        assert [timing.rows for timing in one.timings] == [1, 8]
        assert all(timing.own_s > 0 < timing.bitsandbytes_s for timing in one.timings)
    file = tmp_path / "nf4.json"
    table.write(file)
    assert read_table(file, _CPU) == table
    # And a base takes it.
    for group, weight in _weights(load(nf4_table=file)):
        assert weight.is_own is not None, group.names
        timings = next(
            one.timings for one in table.shapes
            if (one.out_features, one.in_features) == tuple(weight.state.shape)
        )  # fmt: skip
        assert [weight.is_own(n) for n in (1, 5, 9)] == [
            timings[0].own_s < timings[0].bitsandbytes_s,
            timings[1].own_s < timings[1].bitsandbytes_s,
            False,
        ]


@given(
    wins=st.lists(st.booleans(), min_size=1, max_size=9),
    rows=st.integers(1, 700),
)
@settings(deadline=None)
def test_rows_count_as_the_next_larger_number_that_was_timed(wins: list[bool], rows: int) -> None:
    timings = tuple(
        Timing(1 << i, own_s=1.0, bitsandbytes_s=2.0 if own else 0.5) for i, own in enumerate(wins)
    )
    is_own = Nf4Table("cpu", {}, (ShapeTimings(64, 128, timings),)).is_own((64, 128))
    assert is_own is not None
    larger = [timing for timing in timings if timing.rows >= rows]
    assert is_own(rows) == (bool(larger) and larger[0].bitsandbytes_s > 1.0)
    assert Nf4Table("cpu", {}, ()).is_own((64, 128)) is None


def test_the_product_that_was_chosen_is_the_one_that_runs(
    load: Callable[..., LoadedBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, weight = _weights(load())[0]
    counted: list[int] = []

    class Counting:
        def __init__(self, inner: Kernels) -> None:
            self._inner = inner

        def linear_nf4(self, x: torch.Tensor, *args: Any) -> torch.Tensor:
            counted.append(len(x))
            return self._inner.linear_nf4(x, *args)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    assert weight.kernels is not None
    kernels: Any = Counting(weight.kernels)
    chosen = replace(weight, kernels=kernels, is_own=lambda rows: rows in (2, 3))
    torch.manual_seed(0)
    with torch.inference_mode():
        for rows in (1, 2, 3, 4):
            x = torch.randn(1, rows, weight.state.shape[1], dtype=torch.bfloat16)
            assert chosen.takes_lora(x) == (rows in (2, 3))
            found, expected = chosen(x).float(), x.float() @ weight.dequantized().float().t()
            assert (found - expected).norm() <= 2e-2 * expected.norm()
    assert counted == [2, 3]


def test_a_table_of_something_else_is_refused(
    load: Callable[..., LoadedBase], base: Path, tmp_path: Path
) -> None:
    file = tmp_path / "nf4.json"
    with pytest.raises(StartupError, match=r"nf4_table nf4.json: cannot be read: No such file"):
        read_table(file, _CPU)
    file.write_text("{}")
    with pytest.raises(StartupError, match=r"nf4_table nf4.json: no table of products"):
        read_table(file, _CPU)
    table = measure([weight for _, weight in _weights(load())], rows=(1,))
    replace(table, device="NVIDIA H200").write(file)
    with pytest.raises(StartupError, match="with device NVIDIA H200, here is cpu; measure anew"):
        read_table(file, _CPU)
    replace(table, versions={**table.versions, "torch": "1.0"}).write(file)
    with pytest.raises(StartupError, match=r"with torch 1.0, here is "):
        read_table(file, _CPU)
    replace(table, shapes=table.shapes[:1]).write(file)
    with pytest.raises(StartupError, match=r"has no weights \[\d+, \d+\]; choose 'measure'"):
        load(nf4_table=file)
    with pytest.raises(StartupError, match="there is nothing to choose, as no kernels multiply"):
        load_base(base, quantization="none", nf4_table="measure")
