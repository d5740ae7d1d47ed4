"""Kinds of adapters against PEFT: a mixed batch, and each request alone through PEFT."""

import random
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from server.adapters.artifact import ArtifactLimits, load_artifact
from server.kernels import load_native, load_triton
from server.models.loader import LoadedBase, load_base
from server.types import FinishedSample
from tests.server.engine import oracle
from tests.server.engine.harness import Driver, HeldAdapter, Inbox

MAX_TOKENS = 6
# Largest difference of a step's log-probabilities, relative to their size.
TOLERANCE = {"none": 1e-5, "nf4": 1e-5, "int8": 1e-3}
# The last bit of a sum may round an input to the next int8 code, a step of 1/127 of the row's
# largest: about one answer in twenty-five (13 of 306), of any kind and whatever the kernels. So far
# from PEFT's an answer may be where PEFT's own moves beyond `TOLERANCE` with the last bits of its
# inputs, but not all of an adapter's. (1.2e-2 was found, of a classifier's three logits.)
ONE_CODE = 2e-2
_LENGTHS = (1, 5, 14, 30)
_LIMITS = ArtifactLimits(max_bytes=1 << 26, max_lora_rank=64, max_host_bytes=1 << 28)


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


def hold(name: str, directory: Path, base: LoadedBase) -> HeldAdapter:
    """A lease on an artifact, read and checked as the server does."""
    return HeldAdapter(name, load_artifact(directory, base.info, _LIMITS, "adapter").weights)


def vocabulary_size(base: LoadedBase, held: HeldAdapter | None) -> int:
    """Tokens of a request with this adapter."""
    own = held.weights.vocabulary if held is not None else None
    return base.info.vocab_size if own is None else own.num_tokens


def difference(finished: FinishedSample, solo: oracle.Solo) -> float:
    """The largest of a step's log-probabilities, relative to their size."""
    return float(oracle.distances(_logprobs(finished), solo.logits.log_softmax(-1)).max())


def check_against_peft(
    base: LoadedBase,
    directory: Path,
    adapters: Mapping[str, Path],
    *,
    step_tokens: int = 512,
    prompts_each: int = 2,
) -> None:
    """One batch of the bare base and every adapter; each answer equals PEFT's alone: the same
    tokens, the log-probabilities (of a classifier, the logits) within `TOLERANCE`.

    Where steps have 512 tokens, one of them has a request of every adapter.
    """
    driver = Driver(base, max_step_tokens=step_tokens, deterministic=base.info.deterministic)
    held: dict[str | None, HeldAdapter | None] = {None: None}
    held.update({name: hold(name, path, base) for name, path in adapters.items()})
    generator = random.Random(5)
    jobs = [
        (name, _prompt(generator, length, base.info.vocab_size, vocabulary_size(base, adapter)))
        for length in generator.sample(_LENGTHS, prompts_each)
        for name, adapter in held.items()
    ]
    inboxes = []
    at_once = step_tokens >= 512
    for i, (name, prompt) in enumerate(jobs):
        adapter = held[name]
        options = {"max_tokens": MAX_TOKENS, "num_logprobs": vocabulary_size(base, adapter)}
        if _labels(adapter):
            options = {"classify": True}
        inboxes.append(driver.add(prompt, adapter, **options))
        if not at_once or i >= len(held) - 1:
            driver.step()
    driver.run()
    most = max(step.num_sequences for step in driver.metrics.steps)
    assert most >= (len(held) if at_once else min(len(held), 4))
    num_moved = 0
    for name, adapter in held.items():
        own = [(p, box) for (n, p), box in zip(jobs, inboxes, strict=True) if n == name]
        moved = check_answers(base, directory, adapters.get(name or ""), adapter, own)
        assert moved < max(len(own), 2), name
        num_moved += moved
    assert num_moved <= max(1, len(jobs) // 6)


def check_answers(
    base: LoadedBase,
    directory: Path,
    path: Path | None,
    held: HeldAdapter | None,
    jobs: list[tuple[tuple[int, ...], Inbox]],
    max_tokens: int = MAX_TOKENS,
) -> int:
    """One adapter's answers to prompts equal PEFT's, as `check_against_peft` says. Returns how many
    of them another int8 code moved."""
    info, labels, size = base.info, _labels(held), vocabulary_size(base, held)
    model = oracle.load(
        directory,
        info.quantization,
        path,
        int8_threshold=info.int8_threshold,
        num_labels=len(labels) or None,
        num_tokens=size if size > info.vocab_size else None,
    )
    tolerance = TOLERANCE[info.quantization]
    num_moved = 0
    for prompt, inbox in jobs:
        what = (path.name if path is not None else "base", len(prompt))
        if labels:
            logits = {score.label: score.logit for score in inbox.classified.labels}
            found, ids = torch.tensor([[logits[label] for label in labels]]), prompt
            expected = oracle.rows(model, ids, 1)
        else:
            solo = oracle.greedy(model, prompt, max_tokens)
            assert inbox.finished.token_ids == solo.token_ids, what
            found, ids = _logprobs(inbox.finished), prompt + solo.token_ids[:-1]
            expected = solo.logits.log_softmax(-1)
        assert found.shape == expected.shape, what
        distance = float(oracle.distances(found, expected).max())
        if info.quantization == "int8" and tolerance < distance <= ONE_CODE:
            assert oracle.moves(model, ids, len(expected), tolerance), (*what, distance)
            num_moved += 1
        else:
            assert distance <= tolerance, (*what, distance)
    return num_moved


def _logprobs(finished: FinishedSample) -> torch.Tensor:
    """[steps, vocabulary], of an answer with all of them."""
    found = torch.empty(len(finished.logprobs), len(finished.logprobs[0].top))
    for row, entry in zip(found, finished.logprobs, strict=True):
        for top in entry.top:
            row[top.token_id] = top.logprob
    return found


def _labels(held: HeldAdapter | None) -> tuple[str, ...]:
    """Of a classifier; none of anything else."""
    head = held.weights.classifier if held is not None else None
    return () if head is None else head.labels


def _prompt(generator: random.Random, length: int, size: int, num_tokens: int) -> tuple[int, ...]:
    """Of the first `size` tokens of a vocabulary, and the first and last of what is added to it."""
    prompt = [generator.randrange(1, size) for _ in range(length)]
    if num_tokens > size:
        prompt[length // 2], prompt[-1] = size, num_tokens - 1
    return tuple(prompt)
