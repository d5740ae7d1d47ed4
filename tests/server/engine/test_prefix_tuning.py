"""Prefix tuning: states that the adapter brings, written where others compute theirs."""

import random
from pathlib import Path

import peft
import pytest
import torch
import transformers

from server.models.loader import LoadedBase, load_base
from tests.server.engine import oracle
from tests.server.engine.harness import Driver, HeldAdapter, Inbox, read_adapter
from tests.tiny import CONTEXT, make_adapter, make_model

_PROMPT = tuple(random.Random(5).choices(range(1, 320), k=60))
_OTHER = tuple(random.Random(6).choices(range(1, 320), k=60))
# Virtual tokens of the adapter "prefix".
_GIVEN = 21

_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 0,
}
# Windows of 8 positions: narrower than the prefix, so that most of it lies outside of them.
_BASES: dict[str, transformers.PretrainedConfig] = {
    "qwen3": transformers.Qwen3Config(**_SIZES, head_dim=24),
    "mistral": transformers.MistralConfig(**_SIZES, sliding_window=8),
    "gemma2": transformers.Gemma2Config(
        **_SIZES, head_dim=16, query_pre_attn_scalar=16, sliding_window=8
    ),
    "gemma3": transformers.Gemma3TextConfig(
        **_SIZES,
        head_dim=24,
        query_pre_attn_scalar=24,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
    "gpt2": transformers.GPT2Config(
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=CONTEXT,
        vocab_size=320,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=0,
    ),
}


def _rows(driver: Driver) -> int:
    return sum(s.num_prefill_tokens + s.num_decode_tokens for s in driver.metrics.steps)


def _run(driver: Driver, prompt: tuple[int, ...], adapter: HeldAdapter) -> tuple[Inbox, int]:
    """Runs one request of one token to its end; returns also the rows that were computed."""
    before = _rows(driver)
    inbox = driver.add(prompt, adapter, max_tokens=1)
    driver.run()
    return inbox, _rows(driver) - before


@pytest.mark.parametrize("architecture", _BASES)
@pytest.mark.parametrize("step_tokens", [512, 7])
def test_architectures(tmp_path: Path, architecture: str, step_tokens: int) -> None:
    """Positions, grouped heads, head sizes and windows as PEFT has them."""
    directory = make_model(tmp_path / "base", _BASES[architecture])
    config = peft.PrefixTuningConfig(num_virtual_tokens=_GIVEN, task_type="CAUSAL_LM")
    adapter = make_adapter(directory, tmp_path / "prefix", config, name="prefix", seed=1)
    base = load_base(directory, quantization="none")
    held = HeldAdapter("prefix", read_adapter(adapter, base.info))
    driver = Driver(base, block_size=8, max_step_tokens=step_tokens)
    prompts = [_PROMPT[:length] for length in (1, 5, 30)]
    options = {"max_tokens": 6, "num_logprobs": 0}
    inboxes = [driver.add(prompt, held, **options) for prompt in prompts]
    bare = [driver.add(prompt, **options) for prompt in prompts]
    driver.run()
    for adapter_directory, answers in ((adapter, inboxes), (None, bare)):
        model = oracle.load(directory, "none", adapter_directory)
        for prompt, inbox in zip(prompts, answers, strict=True):
            solo = oracle.greedy(model, prompt, 6)
            assert inbox.finished.token_ids == solo.token_ids
            expected = solo.logits.log_softmax(-1).amax(-1)
            found = torch.tensor([entry.logprob for entry in inbox.finished.logprobs])
            assert (found - expected).norm() <= 1e-5 * solo.logits.log_softmax(-1).norm()
    assert any(
        ours.finished.token_ids != plain.finished.token_ids
        for ours, plain in zip(inboxes, bare, strict=True)
    )


@pytest.mark.parametrize("block_size", [1, 4, 7, 16, 32])
@pytest.mark.parametrize("prefix_cache", [True, False])
def test_no_row_is_computed_for_it(
    block_size: int, prefix_cache: bool, loaded: LoadedBase, held: dict[str, HeldAdapter]
) -> None:
    driver = Driver(loaded, block_size=block_size, prefix_cache=prefix_cache)
    for text in (_PROMPT[:9], _OTHER[:9], _OTHER[50:51], _OTHER[30:60]):
        inbox, rows = _run(driver, text, held["prefix"])
        assert rows == len(text)
        # Neither its states nor the bare base's count as cached tokens of the prompt.
        assert inbox.answer.usage.num_cached_tokens == 0
    assert sum(step.num_prefix_hits for step in driver.metrics.steps) == 0


def test_requests_share_its_full_blocks(loaded: LoadedBase, held: dict[str, HeldAdapter]) -> None:
    """Also those that join in the step in which they are written."""
    used = {}
    for prefix_cache in (True, False):
        driver = Driver(loaded, block_size=4, prefix_cache=prefix_cache)
        inboxes = [driver.add(_PROMPT[i : i + 2], held["prefix"], max_tokens=9) for i in range(8)]
        driver.step()
        used[prefix_cache] = driver.core.stats().num_used_blocks
        driver.run()
        assert all(inbox.finished for inbox in inboxes)
    # Of 21 positions, 20 fill 5 blocks of 4; the sixth holds the last and two of text.
    assert used == {True: 5 + 8, False: 8 * 6}


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_the_same_bits_through_forks_and_preemption(
    prefix_cache: bool, loaded: LoadedBase, held: dict[str, HeldAdapter]
) -> None:
    found = []
    for config in (
        {"num_blocks": 400},
        {"num_blocks": 14, "max_step_tokens": 9},
        {"num_blocks": 16, "max_step_tokens": 20},
    ):
        driver = Driver(
            loaded, block_size=8, deterministic=True, prefix_cache=prefix_cache, **config
        )
        samples = driver.add(
            _PROMPT[:19], held["prefix"], max_tokens=20, num_samples=4, temperature=1.0, seed=3
        )
        driver.step()
        scores = driver.add(
            _OTHER[:12], held["prefix"], continuations=((1, 2, 3), tuple(_PROMPT[:20]), (4,))
        )
        single = driver.add((9,), held["prefix"], continuations=((1,), (2, 3)))
        other = driver.add(_OTHER[:30], held["narrow"], max_tokens=20)
        driver.run()
        assert (driver.metrics.num_preempted > 0) == (config["num_blocks"] < 100)
        found.append(
            (
                [sample.token_ids for sample in samples.answer.samples],
                scores.scored.scores,
                single.scored.scores,
                other.finished.token_ids,
            )
        )
    assert found[1] == found[0]
    assert found[2] == found[0]


def test_another_version_meets_none_of_it(loaded: LoadedBase, held: dict[str, HeldAdapter]) -> None:
    weights = held["prefix"].weights
    other = HeldAdapter("prefix", type(weights)(prefix=weights.prefix.flip(1)), "v2")
    alone = []
    for adapter in (held["prefix"], other):
        driver = Driver(loaded, block_size=4, deterministic=True)
        alone.append(driver.add(_PROMPT, adapter, num_logprobs=0))
        driver.run()
    driver = Driver(loaded, block_size=4, deterministic=True)
    for _ in range(2):
        inboxes = [
            driver.add(_PROMPT, adapter, num_logprobs=0) for adapter in (held["prefix"], other)
        ]
        driver.run()
        for inbox, expected in zip(inboxes, alone, strict=True):
            assert inbox.finished == expected.finished
    assert alone[0].finished != alone[1].finished
    # Once its version is gone, so are its blocks.
    cached = driver.core.stats().num_cached_blocks
    driver.core.evict("prefix", "v2")
    assert driver.core.stats().num_cached_blocks < cached
    driver.core.check_integrity()


def test_bfloat16(tmp_path: Path) -> None:
    """The states are stored in the cache's type, as in PEFT's cache."""
    config = transformers.LlamaConfig(**_SIZES)
    directory = make_model(tmp_path / "base", config)
    adapter = make_adapter(
        directory,
        tmp_path / "prefix",
        peft.PrefixTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM"),
        name="prefix",
        seed=1,
    )
    base = load_base(directory, quantization="none", dtype="bfloat16")
    held = HeldAdapter("prefix", read_adapter(adapter, base.info))
    assert held.weights.prefix.dtype == torch.float32
    driver = Driver(base, block_size=4)
    inbox = driver.add(_PROMPT[:9], held, max_tokens=1, num_logprobs=base.info.vocab_size)
    driver.run()
    model = oracle.load(directory, "none", adapter)
    expected = oracle.greedy(model, _PROMPT[:9], 1).logits[0].log_softmax(-1)
    found = torch.empty_like(expected)
    for top in inbox.finished.logprobs[0].top:
        found[top.token_id] = top.logprob
    assert (found - expected).norm() <= 0.03 * expected.norm()
