"""The engine on a CUDA device: adapters against PEFT, and what only a device has."""

import importlib
import importlib.util
import random
from typing import Any

import bitsandbytes.functional as bnb
import pytest
import torch
import torch.nn.functional as F

from server.config import EngineConfig
from server.engine.capture import Capture, cuda_capture
from server.engine.side_stream import CudaSideStream
from server.errors import StartupError
from server.kernels import load_flashinfer, page_plan
from server.kernels.flashinfer import FlashInfer
from server.kernels.reference import attention_reference
from server.models.loader import LoadedBase, load_base
from tests.server.engine.conftest import Tiny
from tests.server.engine.harness import Driver, HeldAdapter, read_adapter
from tests.server.engine.kinds import check_against_peft

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

pytestmark = pytest.mark.cuda

CUDA = torch.device("cuda")
# About a twentieth of a second.
_CYCLES = 100_000_000
_LOW_RANK = ("narrow", "wide", "late")
KERNELS = pytest.mark.parametrize("kernels", ["torch", "triton"])


def _load(tiny: Tiny, kernels: str, quantization: str = "none", **options: Any) -> LoadedBase:
    if kernels == "triton" and importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    options = {"dtype": "float32", **options}
    return load_base(
        tiny.base,
        quantization=quantization,
        device="cuda",
        kernels=kernels,
        int8_threshold=0.0,
        **options,
    )


@KERNELS
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_every_kind_equals_peft(tiny: Tiny, kernels: str, quantization: str) -> None:
    base = _load(tiny, kernels, quantization)
    names = tiny.adapters if quantization == "none" else ("narrow", "wide", "dora", "ia3", "prompt")
    adapters = {name: tiny.adapters[name] for name in names}
    check_against_peft(base, tiny.base, adapters, step_tokens=13)


@KERNELS
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_graphs_say_what_steps_without_say(tiny: Tiny, kernels: str, quantization: str) -> None:
    """Adapters that take turns in two slots, beside the base."""
    base = _load(tiny, kernels, quantization)
    read = {name: read_adapter(tiny.adapters[name], base.info) for name in _LOW_RANK}
    captures: tuple[Capture | None, ...] = (
        cuda_capture(base, EngineConfig(cuda_graphs=True)),
        None,
    )
    found = []
    for capture in captures:
        driver = Driver(base, capture=capture, num_adapter_slots=2, max_batch_size=4)
        generator = random.Random(1)
        inboxes = []
        for i, name in enumerate((None, *_LOW_RANK) * 3):
            held = None if name is None else HeldAdapter(name, read[name], f"v{i}")
            prompt = [generator.randrange(1, base.info.vocab_size) for _ in range(1 + 13 * i % 31)]
            inboxes.append(driver.add(prompt, held, max_tokens=20, num_logprobs=0))
        driver.run()
        found.append([inbox.finished for inbox in inboxes])
        if capture is not None:
            assert driver.core.graphs is not None
            assert driver.core.graphs.num_captured >= 1
    for one, other in zip(*found, strict=True):
        assert one.token_ids == other.token_ids
        own = [entry.logprob for entry in one.logprobs]
        assert own == pytest.approx([entry.logprob for entry in other.logprobs], abs=1e-4)


def test_the_side_stream_neither_waits_nor_is_read_too_early() -> None:
    stream = CudaSideStream(CUDA)
    source = torch.arange(1 << 20, dtype=torch.float32).pin_memory()
    with stream.queueing():
        torch.cuda._sleep(_CYCLES)
        moved = source.to(CUDA, non_blocking=True)
    steps = torch.cuda.Event()
    steps.record()
    steps.synchronize()
    assert not stream._stream.query(), "steps waited for the copy"
    stream.wait()
    stream.hand_over([moved])
    assert moved.cpu().equal(source)


def test_memory_that_steps_still_read_goes_to_nobody() -> None:
    stream = CudaSideStream(CUDA)
    with stream.queueing():
        held = torch.ones(1 << 22, device=CUDA)
    stream.wait()
    stream.hand_over([held])
    torch.cuda._sleep(_CYCLES)
    total = held.sum()
    del held
    with stream.queueing():
        others = [torch.full((1 << 22,), float("nan"), device=CUDA) for _ in range(8)]
    stream.wait()
    assert total.item() == 1 << 22
    assert len(others) == 8


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (20, None), (None, 30.0)])
def test_flashinfer_equals_the_plain_form(window: int | None, softcap: float | None) -> None:
    library = load_flashinfer(CUDA, torch.bfloat16)
    if isinstance(library, str):
        pytest.skip(library)
    num_heads, num_kv, dim, block_size = 8, 2, 128, 16
    lengths, counts = [1, 16, 17, 100], [1, 5, 17, 30]
    torch.manual_seed(1)
    cache = torch.randn(40, block_size, 2, num_kv, dim, device=CUDA, dtype=torch.bfloat16)
    order = (torch.randperm(39) + 1).tolist()
    seen = []
    for length in lengths:
        pages = -(-length // block_size)
        seen.append((length, order[:pages]))
        order = order[pages:]
    for own in (None, counts):
        rows = [1] * len(lengths) if own is None else own
        query = torch.randn(sum(rows), num_heads, dim, device=CUDA, dtype=torch.bfloat16)
        plan = page_plan(seen, block_size, own)
        step = FlashInfer(library, CUDA).step(*((plan, None) if own is None else (None, plan)))
        got = step.attend(query, cache, dim**-0.5, window, softcap)
        first = 0
        for (length, blocks), count in zip(seen, rows, strict=True):
            states = cache[blocks].flatten(0, 1)[:length].double().cpu()
            want = attention_reference(
                query[first : first + count].transpose(0, 1).double().cpu(),
                states[:, 0].transpose(0, 1),
                states[:, 1].transpose(0, 1),
                dim**-0.5,
                window,
                softcap,
            )
            error = (got[first : first + count].double().cpu() - want).abs().max()
            assert error <= 2e-2 * want.abs().max(), (own, length)
            first += count


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_both_nf4_products_say_the_same(dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    linear = importlib.import_module("server.kernels.triton_linear").triton_linear_nf4
    weight = torch.randn(1536, 1024, device=CUDA, dtype=dtype)
    codes, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    dense = bnb.dequantize_4bit(codes, state)
    for num_rows in (1, 4, 5, 32, 128, 256):
        x = torch.randn(num_rows, 1024, device=CUDA, dtype=dtype)
        got = linear(x, codes, state.absmax, state.code, None, 1536)
        want = F.linear(x.double(), dense.double())
        assert (got.double() - want).abs().max() <= 2**-7 * want.abs().max()


def test_nf4_products_are_chosen_by_measuring(tiny: Tiny) -> None:
    """And answer as without a table, within rounding."""
    read, found = None, []
    for table in (None, "measure"):
        options = {"dtype": "bfloat16", "weight_form": "nf4_packed", "nf4_table": table}
        base = _load(tiny, "triton", "nf4", **options)
        read = read or read_adapter(tiny.adapters["narrow"], base.info)
        driver = Driver(base)
        inbox = driver.add(range(1, 20), HeldAdapter("narrow", read), max_tokens=1, num_logprobs=5)
        driver.run()
        found.append([entry.logprob for entry in inbox.finished.logprobs])
    assert found[0] == pytest.approx(found[1], rel=0.1)


def test_deterministic_is_refused(tiny: Tiny) -> None:
    with pytest.raises(StartupError, match=r"engine.deterministic: the base is on cuda; .*cpu"):
        load_base(tiny.base, quantization="none", device="cuda", deterministic=True)
