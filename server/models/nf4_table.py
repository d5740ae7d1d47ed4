"""Which product with NF4 weights is the faster one: our kernels', or the library's.

bitsandbytes multiplies packed weights in one kernel where few rows and a wide output make that
pay, and dequantizes first elsewhere; where the lines lie depends on the device. So both are timed,
at start or beforehand, and the answer is looked up by the weight's shape and the number of rows.
"""

import json
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from bitsandbytes.autograd._functions import matmul_4bit
from pydantic import TypeAdapter, ValidationError

from server.errors import StartupError
from server.models.layers import LinearGroup
from server.models.timing import seconds
from server.models.weights import Nf4Weight

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Numbers of rows that are timed; those between count as the next larger one."""
_PACKAGES = ("bitsandbytes", "triton")

Shape = tuple[int, int]
"""[out, in]."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one product with `rows` rows, by our kernels and by the library."""

    rows: int
    own_s: float
    bitsandbytes_s: float


@dataclass(frozen=True)
class ShapeTimings:
    """Of one shape of weight, rows ascending."""

    out_features: int
    in_features: int
    timings: tuple[Timing, ...]


@dataclass(frozen=True)
class Nf4Table:
    """What was measured, and where: the device's name, and versions by package."""

    device: str
    versions: Mapping[str, str]
    shapes: tuple[ShapeTimings, ...]

    def is_own(self, shape: Shape) -> Callable[[int], bool] | None:
        """Tells whether our kernels are faster for a weight of `shape` with so many rows: never
        with more than were timed. None if the shape was not timed."""
        for found in self.shapes:
            if (found.out_features, found.in_features) == shape:
                rows = [timing.rows for timing in found.timings]
                wins = [timing.own_s < timing.bitsandbytes_s for timing in found.timings]
                return lambda n: (at := bisect_left(rows, n)) < len(rows) and wins[at]
        return None

    def write(self, file: Path) -> None:
        """As JSON."""
        file.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read_table(file: Path, device: torch.device) -> Nf4Table:
    """A table that `write` wrote. Raises StartupError unless it is of this device, and of what is
    installed here."""
    try:
        table = TypeAdapter(Nf4Table).validate_json(file.read_bytes())
    except OSError as error:
        raise StartupError(f"nf4_table {file.name}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise StartupError(f"nf4_table {file.name}: no table of products; measure anew") from error
    here = {"device": device_name(device), **_versions()}
    there = {"device": table.device, **table.versions}
    for key in here.keys() | there.keys():
        if here.get(key) != there.get(key):
            raise StartupError(
                f"nf4_table {file.name}: measured with {key} {there.get(key)}, here is "
                f"{here.get(key)}; measure anew"
            )
    return table


@torch.inference_mode()
def measure(weights: Sequence[Nf4Weight], rows: Sequence[int] = ROWS) -> Nf4Table:
    """Times each shape of weight once, on the first that has it. All have `kernels`."""
    by_shape = {(w.state.shape[0], w.state.shape[1]): w for w in reversed(weights)}
    device = weights[0].codes.device
    return Nf4Table(
        device_name(device),
        _versions(),
        tuple(
            ShapeTimings(out, into, tuple(_time(weight, count) for count in rows))
            for (out, into), weight in sorted(by_shape.items())
        ),
    )


def choose_products(groups: Sequence[LinearGroup], table: Nf4Table | None, source: str) -> None:
    """Gives each NF4 weight of `groups` the products that were the faster ones, in place; `table`
    None: measured now. Raises StartupError where there is no choice, or a shape is not in the table
    from `source`."""
    found = [
        (group, group.weight)
        for group in groups
        if isinstance(group.weight, Nf4Weight) and group.weight.kernels is not None
    ]
    if not found:
        raise StartupError(
            f"nf4_table {source}: there is nothing to choose, as no kernels multiply packed NF4 "
            "weights; it goes with quantization nf4, weight_form nf4_packed and kernels triton"
        )
    table = table or measure([weight for _, weight in found])
    for group, weight in found:
        out_features, in_features = weight.state.shape
        is_own = table.is_own((out_features, in_features))
        if is_own is None:
            raise StartupError(
                f"nf4_table {source}: has no weights [{out_features}, {in_features}]; choose "
                "'measure'"
            )
        group.weight = replace(weight, is_own=is_own)


def device_name(device: torch.device) -> str:
    """What the driver calls it; `cpu` on a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _time(weight: Nf4Weight, rows: int) -> Timing:
    assert weight.kernels is not None
    kernels, state = weight.kernels, weight.state
    out_features, in_features = state.shape
    x = torch.ones(rows, in_features, dtype=state.dtype, device=weight.codes.device)
    return Timing(
        rows,
        seconds(
            lambda: kernels.linear_nf4(
                x, weight.codes, state.absmax, state.code, weight.bias, out_features
            ),
            x.device,
        ),
        seconds(lambda: matmul_4bit(x, weight.codes, state, bias=weight.bias), x.device),
    )


def _versions() -> dict[str, str]:
    found: dict[str, str] = {"torch": str(torch.__version__)}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
