"""A mixed batch equals each request run alone through transformers and PEFT."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from server.kernels import load_native
from server.models.loader import LoadedBase, load_base
from server.types import FinishedSample
from tests.server.engine import oracle
from tests.server.engine.conftest import Tiny
from tests.server.engine.harness import Driver, HeldAdapter, read_adapter

_MAX_TOKENS = 12
# Largest difference of a step's log-probabilities, relative to their size.
_TOLERANCE = {"none": 1e-5, "nf4": 1e-5, "int8": 1e-3}


def _prompts(vocab_size: int, count: int, seed: int) -> list[tuple[int, ...]]:
    generator = random.Random(seed)
    lengths = [1, 3, 7, 11, 16, 23, 40, 61]
    return [
        tuple(generator.randrange(1, vocab_size) for _ in range(lengths[i % len(lengths)]))
        for i in range(count)
    ]


def _difference(finished: FinishedSample, solo: oracle.Solo) -> float:
    expected = solo.logits.log_softmax(-1)
    got = torch.empty_like(expected)
    for row, entry in zip(got, finished.logprobs, strict=True):
        for top in entry.top:
            row[top.token_id] = top.logprob
    return float(((got - expected).norm(dim=1) / expected.norm(dim=1)).max())


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize(
    ("kernels", "step_tokens"), [("deterministic", 512), ("deterministic", 13), ("native", 512),
                                 ("native", 13), ("torch", 512)],
)  # fmt: skip
def test_mixed_batch_equals_solo(
    tiny: Tiny, quantization: str, kernels: str, step_tokens: int
) -> None:
    deterministic = kernels == "deterministic"
    base = _load(tiny, kernels, quantization=quantization, int8_threshold=0.0)
    driver = Driver(
        base, max_batch_size=16, max_step_tokens=step_tokens, deterministic=deterministic
    )
    names: list[str | None] = [None, *tiny.adapters]
    prompts = _prompts(base.info.vocab_size, 2 * len(names), seed=1)
    held = {
        name: HeldAdapter(name, read_adapter(path, base.info))
        for name, path in tiny.adapters.items()
    }
    jobs = [(names[i % len(names)], prompt) for i, prompt in enumerate(prompts)]
    inboxes = []
    for name, prompt in jobs:
        adapter = held[name] if name else None
        inboxes.append(
            driver.add(prompt, adapter, max_tokens=_MAX_TOKENS, num_logprobs=base.info.vocab_size)
        )
        driver.step()
    driver.run()
    assert max(step.num_sequences for step in driver.metrics.steps) >= 6
    for name in names:
        model = oracle.load(
            tiny.base, quantization, tiny.adapters[name] if name else None, int8_threshold=0.0
        )
        for (job_name, prompt), inbox in zip(jobs, inboxes, strict=True):
            if job_name == name:
                solo = oracle.greedy(model, prompt, _MAX_TOKENS)
                assert inbox.finished.token_ids == solo.token_ids, (name, len(prompt))
                assert _difference(inbox.finished, solo) <= _TOLERANCE[quantization]


@pytest.mark.parametrize("weight_form", ["nf4_packed", "nf4_held"])
def test_native_bfloat16_is_as_close_to_float32_as_torchs(tiny: Tiny, weight_form: str) -> None:
    """The log-probabilities of a mixed batch: rounding to bfloat16 moves both forms as far."""
    found = {}
    for kernels, dtype in (("torch", "float32"), ("torch", "bfloat16"), ("native", "bfloat16")):
        base = _load(tiny, kernels, dtype=dtype, weight_form=weight_form)
        driver = Driver(base, max_batch_size=16)
        held = [None] + [
            HeldAdapter(name, read_adapter(path, base.info)) for name, path in tiny.adapters.items()
        ]
        # One step's worth of scores: what was generated before cannot differ.
        inboxes = [
            driver.add(prompt, held[i % len(held)], continuations=((7, 9, 200), (8,)))
            for i, prompt in enumerate(_prompts(base.info.vocab_size, 12, seed=2))
        ]
        driver.run()
        found[kernels, dtype] = torch.tensor(
            [t.logprob for inbox in inboxes for score in inbox.scored.scores for t in score.tokens]
        )
    exact = found["torch", "float32"]
    distance = {k: float((found[k, "bfloat16"] - exact).norm()) for k in ("torch", "native")}
    assert 0 < distance["native"] <= 1.5 * distance["torch"]
    assert distance["torch"] < 0.1 * float(exact.norm())


def _load(tiny: Tiny, kernels: str, **options: Any) -> LoadedBase:
    if kernels == "native" and load_native() is None:
        pytest.skip("the native kernels were not compiled, or not for this CPU")
    if kernels == "deterministic":
        return load_base(tiny.base, deterministic=True, **options)
    base = load_base(tiny.base, kernels=kernels, **options)
    assert (base.kernels is not None) == (kernels == "native")
    return base


def test_foreign_checkpoint(test_data: Path) -> None:
    directory = test_data / "models" / "stories260K" / "hf"
    base = load_base(directory, quantization="none")
    prompt = tuple(base.tokenizer("Once upon a time, there was a little")["input_ids"])
    driver = Driver(base)
    inboxes = [
        driver.add(prompt[: len(prompt) - i], max_tokens=40, ignore_eos=False) for i in range(4)
    ]
    driver.run()
    model = oracle.load(directory, "none", None)
    for i, inbox in enumerate(inboxes):
        solo = oracle.greedy(model, prompt[: len(prompt) - i], 40, base.eos_token_ids)
        assert inbox.finished.token_ids == solo.token_ids
    assert base.tokenizer.decode(solo.token_ids, skip_special_tokens=True) == inbox.finished.text
