"""The sections of a device's benchmark, by name, in the order in which they run.

Modules that load torch are imported where a section runs, in its own process.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.gpu_child import UnavailableError


class Setting:
    """What all sections share."""

    def __init__(self, work: Path, *, quick: bool) -> None:
        from tests.bench.shape import LLAMA_8B, TINY

        self.quick = quick
        self.shape = TINY if quick else LLAMA_8B
        self.passes = 1 if quick else 20
        self.folder = work / ("quick" if quick else "full")
        """Base, adapters and tables: those of the tiny model and of the other lie apart."""
        self.folder.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class Section:
    """One of them."""

    play: Callable[[Setting], Any]
    limit_s: int = 120


def device_name() -> str:
    """What the driver calls the device."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none, interpreted"


def play(name: str, work: Path, quick: bool) -> Any:
    """Runs a section; returns what it found."""
    return SECTIONS[name].play(Setting(work, quick=quick))


def _ceiling(setting: Setting) -> Any:
    from tests.bench import gpu_kernels

    return gpu_kernels.ceiling(1 << 20 if setting.quick else 1 << 33, setting.passes)


def _linear(setting: Setting) -> Any:
    from tests.bench import gpu_kernels

    rows = (1, 17) if setting.quick else (1, 8, 16, 32, 64, 128, 256, 512)
    return list(gpu_kernels.linear(setting.shape, rows, setting.passes))


def _lora(setting: Setting) -> Any:
    from tests.bench import gpu_kernels

    cases = ((1, 1), (8, 1), (32, 1), (128, 1), (8, 16), (1, 512), (4, 512))
    return list(
        gpu_kernels.lora(setting.shape, cases[: 2 if setting.quick else None], setting.passes)
    )


def _attention(setting: Setting) -> Any:
    from tests.bench import gpu_kernels

    cases = ((1, 512), (1, 8192), (32, 512), (32, 4096), (128, 512))
    return list(
        gpu_kernels.attention(setting.shape, ((2, 40),) if setting.quick else cases, setting.passes)
    )


def _sampler(setting: Setting) -> Any:
    from tests.bench import gpu_kernels

    rows = (2,) if setting.quick else (1, 8, 32, 128)
    return list(gpu_kernels.sampler(setting.shape, rows, setting.passes))


def _flashinfer(setting: Setting) -> Any:
    from tests.bench import gpu_kernels

    _need_cuda("flashinfer")
    cases = ((1, 512), (1, 8192), (32, 512), (32, 4096))
    return list(gpu_kernels.flashinfer(setting.shape, cases, setting.passes))


def _nf4(setting: Setting) -> Any:
    """Writes the table that `base.nf4_table` takes."""
    from tests.bench import gpu_kernels

    return gpu_kernels.nf4_table(setting.shape, setting.folder / "nf4.json", quick=setting.quick)


def _disk(setting: Setting) -> Any:
    from tests.bench import gpu_disk

    return gpu_disk.write(setting.folder, setting.shape, quick=setting.quick)


def _decode(kernels: str, **options: Any) -> Callable[[Setting], Any]:
    def play(setting: Setting) -> Any:
        from tests.bench import gpu_engine

        if options.get("cuda_graphs"):
            _need_cuda("engine.cuda_graphs")
        given = dict(options)
        if given.pop("own_table", False):
            given["nf4_table"] = setting.folder / "nf4.json"
        return gpu_engine.decode(setting.folder, setting.shape, kernels, given, quick=setting.quick)

    return play


def _transfers(setting: Setting) -> Any:
    from tests.bench import gpu_engine

    return gpu_engine.transfers(setting.folder, setting.shape, quick=setting.quick)


def _need_cuda(what: str) -> None:
    import torch

    if not torch.cuda.is_available():
        raise UnavailableError(f"{what}: needs CUDA")


SECTIONS: dict[str, Section] = {
    "ceiling": Section(_ceiling),
    "linear": Section(_linear),
    "lora": Section(_lora),
    "attention": Section(_attention),
    "sampler": Section(_sampler),
    "flashinfer": Section(_flashinfer),
    "nf4_table": Section(_nf4),
    # 16 GB are drawn, written and hashed once.
    "disk": Section(_disk, 300),
    "decode_torch": Section(_decode("torch")),
    "decode_triton": Section(_decode("triton")),
    "decode_graphs": Section(_decode("triton", cuda_graphs=True)),
    "decode_nf4_table": Section(_decode("triton", own_table=True)),
    "decode_flashinfer": Section(_decode("triton", cuda_graphs=True, attention="flashinfer")),
    "transfers": Section(_transfers),
}
