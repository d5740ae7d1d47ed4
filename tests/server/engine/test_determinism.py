"""Deterministic mode: the same bits alone and in any mixture."""

import random
from pathlib import Path

import pytest
import transformers

from server.config import EngineConfig
from server.engine.batch import Layout
from server.engine.core import EngineCore
from server.errors import StartupError
from server.models.loader import LoadedBase, load_base
from tests.server.engine.conftest import Tiny
from tests.server.engine.harness import Driver, HeldAdapter, Inbox, Recorder, read_adapter
from tests.tiny import CONTEXT, make_base, make_model

# Around the sizes to which keys are padded, and where products of few rows change kernels.
_LENGTHS = (1, 2, 5, 17, 60, 126, 250, 270, 520)


def _numbers(inbox: Inbox) -> list[float]:
    return [entry.logprob for entry in inbox.finished.logprobs]


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_the_same_bits_in_any_mixture(tiny: Tiny, quantization: str) -> None:
    base = load_base(tiny.base, quantization=quantization, deterministic=True)
    held = [
        HeldAdapter(name, read_adapter(path, base.info)) for name, path in tiny.adapters.items()
    ]
    adapters = [None, *held]
    generator = random.Random(5)
    jobs = [
        (tuple(generator.choices(range(1, 320), k=length)), adapters[i % len(adapters)])
        for i, length in enumerate(_LENGTHS * 2)
    ]
    options = {"max_tokens": 12, "num_logprobs": 0}
    alone = []
    for prompt, adapter in jobs:
        driver = Driver(base, deterministic=True)
        alone.append(driver.add(prompt, adapter, **options))
        driver.run()
    for config in (
        {"max_batch_size": 32},
        {"max_step_tokens": 45, "block_size": 8},
        {"block_size": 4, "num_blocks": 139},
    ):
        driver = Driver(base, deterministic=True, **config)
        mixed = []
        for prompt, adapter in generator.sample(jobs, len(jobs)):
            mixed.append((jobs.index((prompt, adapter)), driver.add(prompt, adapter, **options)))
            if generator.random() < 0.5:
                driver.step()
        driver.run()
        assert driver.metrics.num_preempted or "num_blocks" not in config
        for i, inbox in mixed:
            assert inbox.finished.token_ids == alone[i].finished.token_ids
            assert _numbers(inbox) == _numbers(alone[i])


def test_scores_have_the_bits_of_the_generation(loaded: LoadedBase) -> None:
    prompt = tuple(random.Random(1).choices(range(1, 320), k=121))
    driver = Driver(loaded, deterministic=True)
    generation = driver.add(prompt, max_tokens=12, num_logprobs=0)
    driver.run()
    best = generation.finished.token_ids
    others = tuple(tuple(random.Random(i).choices(range(1, 320), k=9)) for i in range(6))
    scores = []
    for config in ({}, {"max_step_tokens": 19}, {"block_size": 8, "num_blocks": 25}):
        driver = Driver(loaded, deterministic=True, **config)
        driver.add((1, 2, 3), max_tokens=20)
        scores.append(driver.add(prompt, continuations=(best, *others)))
        driver.run()
    for scored in scores:
        assert [token.logprob for token in scored.scored.scores[0].tokens] == _numbers(generation)
        assert scored.scored.scores == scores[0].scored.scores


def test_softcap_and_window(tmp_path: Path) -> None:
    """Attention that scaled_dot_product_attention cannot express runs as separate products."""
    config = transformers.Gemma2Config(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=320,
        max_position_embeddings=CONTEXT,
        sliding_window=40,
        attn_logit_softcapping=5.0,
        query_pre_attn_scalar=16,
        initializer_range=0.2,
        eos_token_id=0,
    )
    base = load_base(make_model(tmp_path, config), quantization="none", deterministic=True)
    prompts = [tuple(random.Random(i).choices(range(1, 320), k=i)) for i in (3, 90, 200, 300, 600)]
    alone = []
    for prompt in prompts:
        driver = Driver(base, deterministic=True)
        alone.append(driver.add(prompt, max_tokens=6, num_logprobs=0))
        driver.run()
    driver = Driver(base, deterministic=True, max_step_tokens=77)
    together = [driver.add(prompt, max_tokens=6, num_logprobs=0) for prompt in prompts]
    driver.run()
    assert [_numbers(inbox) for inbox in together] == [_numbers(inbox) for inbox in alone]
    again = [driver.add(prompt, max_tokens=6, num_logprobs=0) for prompt in prompts]
    driver.run()
    assert [_numbers(inbox) for inbox in again] == [_numbers(inbox) for inbox in alone]
    assert sum(inbox.answer.usage.num_cached_tokens for inbox in again) > 1000


def test_layout_splits_where_the_padding_changes() -> None:
    layout = Layout.deterministic(16)
    assert layout.split(0, 600) == [(0, 128), (128, 256), (256, 600)]
    assert layout.split(128, 256) == [(128, 256)]
    assert [layout.num_blocks(n) for n in (1, 128, 129, 256, 257, 512, 513)] == [
        8, 8, 16, 16, 32, 32, 64,
    ]  # fmt: skip
    assert Layout(16).split(0, 600) == [(0, 600)]
    assert [Layout(16).num_blocks(n) for n in (1, 16, 17)] == [1, 1, 2]


def test_block_size_that_deterministic_mode_cannot_use(tmp_path: Path) -> None:
    base = load_base(make_base(tmp_path), quantization="none")
    with pytest.raises(StartupError, match=r"engine.block_size 12: deterministic mode needs"):
        EngineCore(base, EngineConfig(block_size=12, deterministic=True), Recorder())
