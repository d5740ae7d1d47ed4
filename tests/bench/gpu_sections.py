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

    def ceiling(self) -> Any:
        """The device's, measured now and by the process that is compared with it."""
        from tests.bench.gpu_ceiling import measure_ceiling

        return measure_ceiling(self.passes)


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
    from tests.bench import gpu_ceiling

    return gpu_ceiling.ceiling(setting.passes)


def _linear(setting: Setting) -> Any:
    from tests.bench import gpu_kernels

    rows = (1, 17) if setting.quick else (1, 8, 16, 32, 64, 128, 256, 512)
    return list(gpu_kernels.linear(setting.shape, rows, setting.passes, setting.ceiling()))


def _lora(setting: Setting) -> Any:
    from tests.bench import gpu_kernels

    cases: tuple[tuple[int, int], ...] = ((1, 1), (8, 1))
    products = ("qkv",) if setting.quick else tuple(setting.shape.products)
    if not setting.quick:
        cases += ((32, 1), (128, 1), (8, 16), (1, 512), (4, 512))
    ceiling = setting.ceiling()
    return list(gpu_kernels.lora(setting.shape, products, cases, setting.passes, ceiling))


def _elementwise(setting: Setting) -> Any:
    from tests.bench import gpu_kernels

    rows = (2,) if setting.quick else (1, 32, 128, 512)
    return list(gpu_kernels.elementwise(setting.shape, rows, setting.passes, setting.ceiling()))


def _attention(setting: Setting) -> Any:
    from tests.bench import gpu_attention

    shape, passes, ceiling = setting.shape, setting.passes, setting.ceiling()
    alone: gpu_attention.Cases = ((1, 512), (1, 8192), (32, 512), (32, 4096), (128, 512))
    prompts: gpu_attention.Cases = ((512, 0), (512, 512), (512, 7680), (64, 4096))
    rows: tuple[int, ...] = (1, 32, 128, 512)
    if setting.quick:
        alone, prompts, rows = ((2, 40),), ((20, 0), (20, 20)), (3,)
    return [
        *gpu_attention.decode(shape, alone, passes, ceiling),
        *gpu_attention.prompt(shape, prompts, passes, ceiling),
        *gpu_attention.cache_write(shape, rows, passes, ceiling),
    ]


def _flashinfer(setting: Setting) -> Any:
    _need_cuda("flashinfer")
    from tests.bench import gpu_attention

    cases = ((1, 512), (1, 8192), (32, 512), (32, 4096), (128, 512))
    found = gpu_attention.flashinfer(setting.shape, cases, setting.passes, setting.ceiling())
    return list(found)


def _sampler(setting: Setting) -> Any:
    from tests.bench import gpu_kernels

    rows = (2,) if setting.quick else (1, 8, 32, 128)
    return list(gpu_kernels.sampler(setting.shape, rows, setting.passes, setting.ceiling()))


def _nf4(setting: Setting) -> Any:
    """Writes the table that `base.nf4_table` takes."""
    from tests.bench import gpu_kernels

    return gpu_kernels.nf4_table(setting.shape, setting.folder / "nf4.json", quick=setting.quick)


def _disk(setting: Setting) -> Any:
    from tests.bench import gpu_disk

    return gpu_disk.write(setting.folder, setting.shape, quick=setting.quick)


def _decode(kernels: str, *, own_table: bool = False, **options: Any) -> Callable[[Setting], Any]:
    def play(setting: Setting) -> Any:
        from tests.bench import gpu_engine

        if options.get("cuda_graphs"):
            _need_cuda("engine.cuda_graphs")
        table = {"nf4_table": setting.folder / "nf4.json"} if own_table else {}
        return gpu_engine.decode(
            setting.folder, setting.shape, kernels, {**options, **table}, quick=setting.quick
        )

    return play


def _prefill(setting: Setting) -> Any:
    from tests.bench import gpu_engine

    return gpu_engine.prefill(setting.folder, setting.shape, "triton", quick=setting.quick)


def _transfers(setting: Setting) -> Any:
    from tests.bench import gpu_adapters

    return gpu_adapters.transfers(setting.folder, setting.shape, quick=setting.quick)


def _registered(setting: Setting) -> Any:
    from tests.bench import gpu_adapters

    return gpu_adapters.registered(setting.folder, setting.shape, quick=setting.quick)


def _peft(setting: Setting) -> Any:
    from tests.bench import gpu_baseline

    return gpu_baseline.against_peft(setting.folder, setting.shape, quick=setting.quick)


def _train(setting: Setting) -> Any:
    from tests.bench import gpu_commands

    return gpu_commands.train(setting.folder, quick=setting.quick)


def _tests(setting: Setting) -> Any:
    from tests.bench import gpu_commands

    return gpu_commands.tests(quick=setting.quick)


def _demo(setting: Setting) -> Any:
    _need_cuda("the demo on a device")
    from tests.bench import gpu_commands

    return gpu_commands.demo(setting.folder)


def _need_cuda(what: str) -> None:
    import torch

    if not torch.cuda.is_available():
        raise UnavailableError(f"{what}: needs CUDA")


SECTIONS: dict[str, Section] = {
    "ceiling": Section(_ceiling),
    "linear": Section(_linear),
    "lora": Section(_lora),
    "elementwise": Section(_elementwise),
    "attention": Section(_attention),
    "sampler": Section(_sampler),
    "flashinfer": Section(_flashinfer),
    "nf4_table": Section(_nf4),
    # 16 GB are drawn, written and hashed once, and 64 adapters.
    "disk": Section(_disk, 300),
    # Those from here on read 16 GB, quantize them and compile.
    "decode_torch": Section(_decode("torch"), 240),
    "decode_triton": Section(_decode("triton"), 240),
    "decode_graphs": Section(_decode("triton", cuda_graphs=True), 240),
    "decode_nf4_table": Section(_decode("triton", own_table=True), 240),
    "decode_flashinfer": Section(_decode("triton", cuda_graphs=True, attention="flashinfer"), 240),
    "prefill": Section(_prefill),
    "transfers": Section(_transfers, 180),
    # Two engines, and some 300 adapters that are read.
    "registered": Section(_registered, 300),
    # Three times the base, and 32 adapters by PEFT.
    "peft": Section(_peft, 420),
    "train": Section(_train, 180),
    "tests": Section(_tests, 900),
    "demo": Section(_demo, 900),
}
