"""Adapters of virtual tokens of random configurations, mixed in one batch, each as PEFT runs it."""

import random
import tempfile
from pathlib import Path
from typing import Any

import peft
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.models.loader import LoadedBase, load_base
from tests.server.engine import oracle
from tests.server.engine.conftest import Tiny
from tests.server.engine.harness import Driver, HeldAdapter, read_adapter
from tests.server.engine.kinds import difference
from tests.tiny import make_adapter

_COUNTS = st.integers(1, 40)
_WIDTHS = st.integers(1, 24)


def _configs() -> st.SearchStrategy[peft.PeftConfig]:
    def of(kind: Any, **options: Any) -> st.SearchStrategy[peft.PeftConfig]:
        return st.builds(
            kind, num_virtual_tokens=_COUNTS, task_type=st.just("CAUSAL_LM"), **options
        )

    return st.one_of(
        of(peft.PromptTuningConfig),
        of(
            peft.PromptEncoderConfig,
            encoder_hidden_size=_WIDTHS,
            encoder_reparameterization_type=st.sampled_from(["MLP", "LSTM"]),
            encoder_num_layers=st.just(2),
        ),
        of(peft.MultitaskPromptTuningConfig, num_ranks=st.integers(1, 4)),
        of(peft.PrefixTuningConfig),
        of(
            peft.PrefixTuningConfig,
            prefix_projection=st.just(True),
            encoder_hidden_size=_WIDTHS,
        ),
    )


@pytest.fixture(scope="module", params=["none-torch", "nf4-native", "nf4-deterministic"])
def base(request: pytest.FixtureRequest, tiny: Tiny) -> LoadedBase:
    quantization, kernels = request.param.split("-")
    if kernels == "deterministic":
        return load_base(tiny.base, quantization=quantization, deterministic=True)
    return load_base(
        tiny.base, quantization=quantization, kernels="auto" if kernels == "native" else kernels
    )


@settings(max_examples=6, deadline=None, derandomize=True)
@given(configs=st.lists(_configs(), min_size=1, max_size=4), seed=st.integers(0, 2**32))
def test_random_configurations(
    configs: list[peft.PeftConfig], seed: int, base: LoadedBase, tiny: Tiny
) -> None:
    generator = random.Random(seed)
    driver = Driver(
        base,
        block_size=generator.choice([4, 8, 16]),
        max_step_tokens=generator.choice([11, 64, 512]),
        prefix_cache=generator.random() < 0.7,
        deterministic=base.info.deterministic,
    )
    narrow = HeldAdapter("narrow", read_adapter(tiny.adapters["narrow"], base.info))
    beside = [driver.add(_tokens(generator), adapter) for adapter in (None, narrow)]
    with tempfile.TemporaryDirectory() as folder:
        jobs = []
        for i, config in enumerate(configs):
            path = make_adapter(tiny.base, Path(folder) / f"{i}", config, name=f"a{i}", seed=i)
            held = HeldAdapter(f"a{i}", read_adapter(path, base.info))
            assert held.num_virtual_tokens == config.num_virtual_tokens
            for prompt in (_tokens(generator), _tokens(generator)):
                inbox = driver.add(prompt, held, max_tokens=3, num_logprobs=base.info.vocab_size)
                jobs.append((path, prompt, inbox))
                driver.step()
        driver.run()
        assert all(inbox.finished for inbox in beside)
        for path, prompt, inbox in jobs:
            model = oracle.load(tiny.base, base.info.quantization, path)
            solo = oracle.greedy(model, prompt, 3)
            assert inbox.finished.token_ids == solo.token_ids
            assert difference(inbox.finished, solo) <= 1e-5


def _tokens(generator: random.Random) -> tuple[int, ...]:
    return tuple(generator.choices(range(1, 320), k=generator.choice([1, 4, 9, 30])))
