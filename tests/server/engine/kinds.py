"""Kinds of adapters against PEFT: a mixed batch, and each request alone through PEFT."""

import random
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from server.kernels import load_native, load_triton
from server.models.loader import LoadedBase, load_base
from server.types import FinishedSample
from tests.server.engine import oracle
from tests.server.engine.harness import Driver, HeldAdapter, read_adapter

MAX_TOKENS = 6
# Largest difference of a step's log-probabilities, relative to their size.
TOLERANCE = {"none": 1e-5, "nf4": 1e-5, "int8": 1e-3}
# Native sums differ from torch's in the last bit, which may round an input of 64 to the next int8
# code: a step of 1/127 of the row's largest.
NATIVE_INT8_TOLERANCE = 1e-2
_LENGTHS = (1, 5, 14, 30)


def load_kernels(base: Path, quantization: str, kernels: str) -> LoadedBase:
    """A base in float32: `deterministic`, `torch`, `native` or `triton` (skips where those do not
    run)."""
    if kernels == "native" and load_native() is None:
        pytest.skip("the native kernels were not compiled, or not for this CPU")
    if kernels == "triton" and isinstance(load_triton(torch.device("cpu")), str):
        pytest.skip("TRITON_INTERPRET is not 1, or triton is not installed")
    if kernels == "deterministic":
        return load_base(base, quantization=quantization, deterministic=True)
    return load_base(base, quantization=quantization, int8_threshold=0.0, kernels=kernels)


def difference(finished: FinishedSample, solo: oracle.Solo) -> float:
    """The largest of a step's log-probabilities, relative to their size."""
    expected = solo.logits.log_softmax(-1)
    got = torch.empty_like(expected)
    for row, entry in zip(got, finished.logprobs, strict=True):
        for top in entry.top:
            row[top.token_id] = top.logprob
    return float(((got - expected).norm(dim=1) / expected.norm(dim=1)).max())


def check_against_peft(
    base: LoadedBase,
    directory: Path,
    adapters: Mapping[str, Path],
    *,
    step_tokens: int = 512,
    prompts_each: int = 2,
) -> None:
    """One batch of the bare base and every adapter; each answer equals PEFT's alone: the same
    tokens, the log-probabilities within `TOLERANCE`."""
    info = base.info
    tolerance = TOLERANCE[info.quantization]
    if info.quantization == "int8" and base.kernels is not None:
        tolerance = NATIVE_INT8_TOLERANCE
    driver = Driver(
        base, max_batch_size=16, max_step_tokens=step_tokens, deterministic=info.deterministic
    )
    held: dict[str | None, HeldAdapter | None] = {None: None}
    held.update({n: HeldAdapter(n, read_adapter(p, info)) for n, p in adapters.items()})
    generator = random.Random(5)
    jobs = [
        (name, tuple(generator.randrange(1, info.vocab_size) for _ in range(length)))
        for length in generator.sample(_LENGTHS, prompts_each)
        for name in held
    ]
    inboxes = []
    for name, prompt in jobs:
        options = {"max_tokens": MAX_TOKENS, "num_logprobs": info.vocab_size}
        inboxes.append(driver.add(prompt, held[name], **options))
        driver.step()
    driver.run()
    assert max(step.num_sequences for step in driver.metrics.steps) >= min(len(held), 4)
    for name in held:
        path = None if name is None else adapters[name]
        model = oracle.load(directory, info.quantization, path, int8_threshold=0.0)
        for (job_name, prompt), inbox in zip(jobs, inboxes, strict=True):
            if job_name == name:
                solo = oracle.greedy(model, prompt, MAX_TOKENS)
                assert inbox.finished.token_ids == solo.token_ids, (name, len(prompt))
                found = difference(inbox.finished, solo)
                assert found <= tolerance, (name, found)
