"""Classify: an adapter's head over the last token's hidden state, beside generations in a batch."""

import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from server.adapters.weights import AdapterWeights
from server.config import EngineConfig
from server.engine.limits import check_request
from server.errors import AdapterRefusedError, InvalidRequestError
from server.kernels import load_native
from server.models.loader import LoadedBase, load_base
from server.types import Failed
from tests.server.engine import oracle
from tests.server.engine.conftest import Tiny
from tests.server.engine.harness import Driver, HeldAdapter, Inbox, read_adapter
from tests.tiny import CONTEXT, make_adapter, make_model

_TASK: dict[str, Any] = {"task_type": "SEQ_CLS"}
_KINDS: dict[str, peft.PeftConfig] = {
    "lora": peft.LoraConfig(r=4, target_modules="all-linear", **_TASK),
    "head": peft.LoraConfig(r=1, target_modules="dummy-target-modules", **_TASK),
    "named": peft.LoraConfig(
        r=3, use_dora=True, target_modules=["q_proj"], modules_to_save=["score"], **_TASK
    ),
    "scaled": peft.IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], **_TASK
    ),
    "soft": peft.PromptTuningConfig(num_virtual_tokens=5, **_TASK),
    "encoded": peft.PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=8, **_TASK),
    "prefix": peft.PrefixTuningConfig(num_virtual_tokens=21, **_TASK),
}
_TOLERANCE = {"none": 1e-5, "nf4": 1e-5, "int8": 1e-3}
_LENGTHS = (1, 3, 7, 16, 40, 130)
_PROMPT = tuple(random.Random(5).choices(range(1, 320), k=60))


@pytest.fixture(scope="module")
def classifiers(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An adapter of each kind, with three labels."""
    root = tmp_path_factory.mktemp("classifiers")
    return {
        name: make_adapter(tiny.base, root / name, config, name=name, seed=seed)
        for seed, (name, config) in enumerate(_KINDS.items())
    }


def _prompt(generator: random.Random, length: int) -> tuple[int, ...]:
    return tuple(generator.choices(range(1, 320), k=length))


def _logits(inbox: Inbox) -> list[float]:
    """In the order of the head's labels."""
    return [score.logit for score in sorted(inbox.classified.labels, key=lambda s: s.label)]


@torch.inference_mode()
def _expected(model: torch.nn.Module, prompt: tuple[int, ...]) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=torch.tensor([prompt])).logits[0]
    return logits


def _hold(path: Path, base: LoadedBase) -> HeldAdapter:
    return HeldAdapter(path.name, read_adapter(path, base.info))


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("kernels", ["torch", "native", "deterministic"])
def test_equal_to_peft(
    quantization: str, kernels: str, tiny: Tiny, classifiers: dict[str, Path]
) -> None:
    """Every kind, in one batch with generations of the bare base and of other adapters."""
    options: dict[str, Any] = {"quantization": quantization, "int8_threshold": 0.0}
    if kernels == "native" and (load_native() is None or quantization == "int8"):
        pytest.skip("no native kernels, or their rounding moves int8 codes")
    if kernels == "deterministic":
        base = load_base(tiny.base, deterministic=True, **options)
    else:
        base = load_base(tiny.base, kernels=kernels, **options)
    driver = Driver(
        base, max_batch_size=32, max_step_tokens=64, deterministic=kernels == "deterministic"
    )
    generator = random.Random(1)
    others = [None, _hold(tiny.adapters["wide"], base), _hold(tiny.adapters["prompt"], base)]
    beside = [driver.add(_prompt(generator, 20), other, max_tokens=30) for other in others]
    jobs = []
    for name, path in classifiers.items():
        held = _hold(path, base)
        for length in generator.sample(_LENGTHS, 3):
            prompt = _prompt(generator, length)
            jobs.append((name, prompt, driver.add(prompt, held, classify=True)))
            driver.step()
    driver.run()
    assert all(inbox.finished for inbox in beside)
    assert max(step.num_sequences for step in driver.metrics.steps) > 4
    for name, path in classifiers.items():
        model = oracle.load(tiny.base, quantization, path, int8_threshold=0.0, num_labels=3)
        for job_name, prompt, inbox in jobs:
            if job_name == name:
                expected = _expected(model, prompt)
                found = torch.tensor(_logits(inbox))
                assert (found - expected).norm() <= _TOLERANCE[quantization] * expected.norm()
                ours = {s.label: s.probability for s in inbox.classified.labels}
                for i, probability in enumerate(found.double().softmax(0).tolist()):
                    assert ours[f"LABEL_{i}"] == pytest.approx(probability)


def test_the_same_bits_in_any_mixture(tiny: Tiny, classifiers: dict[str, Path]) -> None:
    base = load_base(tiny.base, quantization="nf4", deterministic=True)
    generator = random.Random(0)
    jobs = [
        (_prompt(generator, length), _hold(path, base))
        for path in classifiers.values()
        for length in generator.sample(_LENGTHS, 3)
    ]
    alone = []
    for prompt, held in jobs:
        driver = Driver(base, deterministic=True)
        alone.append(driver.add(prompt, held, classify=True))
        driver.run()
    wide = _hold(tiny.adapters["wide"], base)
    for config in (
        {"max_batch_size": 32},
        {"max_step_tokens": 21, "block_size": 8},
        {"max_step_tokens": 40, "block_size": 4, "num_blocks": 40, "max_batch_size": 12},
    ):
        driver = Driver(base, deterministic=True, **config)
        beside = [driver.add((i, 2, 3), wide if i % 2 else None, max_tokens=30) for i in range(6)]
        inboxes = {}
        for i in generator.sample(range(len(jobs)), len(jobs)):
            prompt, held = jobs[i]
            inboxes[i] = driver.add(prompt, held, classify=True, priority=generator.choice([0, 1]))
            driver.step()
        driver.run()
        assert all(inbox.finished for inbox in beside)
        assert driver.metrics.num_preempted or "num_blocks" not in config
        for i, inbox in inboxes.items():
            assert inbox.classified.labels == alone[i].classified.labels
        outcomes = [outcome for _, outcome in driver.metrics.ended]
        assert outcomes.count("classified") == len(jobs)


def test_what_was_computed_before_is_found(
    loaded: LoadedBase, classifiers: dict[str, Path]
) -> None:
    held = _hold(classifiers["soft"], loaded)
    driver = Driver(loaded, block_size=8, deterministic=True)
    usages, labels = [], []
    for _ in range(2):
        inbox = driver.add(_PROMPT, held, classify=True)
        driver.run()
        usages.append(inbox.classified.usage)
        labels.append(inbox.classified.labels)
    assert labels[0] == labels[1]
    # All but the last token, whose state is needed.
    assert [usage.num_cached_tokens for usage in usages] == [0, 59]
    assert usages[1].num_prompt_tokens == 60
    assert usages[1].num_completion_tokens == 0


@pytest.mark.parametrize("architecture", ["gpt2", "gemma3", "qwen3"])
def test_architectures(architecture: str, tmp_path: Path) -> None:
    """The state is the one behind the last norm."""
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    common = {
        "vocab_size": 320,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": None,
    }
    configs: dict[str, transformers.PretrainedConfig] = {
        "gpt2": transformers.GPT2Config(
            n_embd=64, n_layer=2, n_head=4, n_positions=CONTEXT, **common
        ),
        "gemma3": transformers.Gemma3TextConfig(**sizes, query_pre_attn_scalar=16, **common),
        "qwen3": transformers.Qwen3Config(**sizes, **common),
    }
    directory = make_model(tmp_path / "base", configs[architecture])
    config = peft.PromptTuningConfig(num_virtual_tokens=4, **_TASK)
    adapter = make_adapter(directory, tmp_path / "soft", config, name="soft", seed=1, num_labels=5)
    base = load_base(directory, quantization="none")
    driver = Driver(base)
    inbox = driver.add(_PROMPT, _hold(adapter, base), classify=True)
    driver.run()
    expected = _expected(oracle.load(directory, "none", adapter, num_labels=5), _PROMPT)
    assert (torch.tensor(_logits(inbox)) - expected).norm() <= 1e-5 * expected.norm()


@st.composite
def _configs(draw: st.DrawFn) -> tuple[peft.PeftConfig, int]:
    """A configuration and its number of labels."""
    kind = draw(st.sampled_from(["lora", "ia3", "prompt", "prefix"]))
    linears = draw(
        st.lists(
            st.sampled_from(["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]),
            min_size=1,
            unique=True,
        )
    )
    count, rank = draw(st.integers(1, 20)), draw(st.integers(1, 6))
    config: peft.PeftConfig
    if kind == "lora":
        config = peft.LoraConfig(
            r=rank,
            use_rslora=draw(st.booleans()),
            use_dora=draw(st.booleans()),
            target_modules=linears,
            **_TASK,
        )
    elif kind == "ia3":
        config = peft.IA3Config(
            target_modules=linears,
            feedforward_modules=[name for name in linears if name == "down_proj"],
            **_TASK,
        )
    elif kind == "prompt":
        config = peft.PromptTuningConfig(num_virtual_tokens=count, **_TASK)
    else:
        config = peft.PrefixTuningConfig(num_virtual_tokens=count, **_TASK)
    return config, draw(st.integers(1, 9))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(drawn=st.lists(_configs(), min_size=1, max_size=3), seed=st.integers(0, 2**32))
def test_random_configurations(
    drawn: list[tuple[peft.PeftConfig, int]], seed: int, loaded: LoadedBase, tiny: Tiny
) -> None:
    generator = random.Random(seed)
    driver = Driver(
        loaded,
        block_size=generator.choice([4, 16]),
        max_step_tokens=generator.choice([11, 512]),
        prefix_cache=generator.random() < 0.7,
    )
    beside = driver.add(_prompt(generator, 9), max_tokens=12)
    with tempfile.TemporaryDirectory() as folder:
        jobs = []
        for i, (config, num_labels) in enumerate(drawn):
            path = make_adapter(
                tiny.base, Path(folder) / f"{i}", config, name="a", seed=i, num_labels=num_labels
            )
            held = _hold(path, loaded)
            for length in generator.sample([1, 4, 30], 2):
                prompt = _prompt(generator, length)
                jobs.append((path, num_labels, prompt, driver.add(prompt, held, classify=True)))
                driver.step()
        driver.run()
        assert beside.finished
        for path, num_labels, prompt, inbox in jobs:
            model = oracle.load(tiny.base, "none", path, num_labels=num_labels)
            expected = _expected(model, prompt)
            difference = (torch.tensor(_logits(inbox)) - expected).norm()
            # A single logit may be near 0, where what it sums up is not.
            assert difference <= 1e-5 * expected.norm().clamp(min=1.0)
            probabilities = [score.probability for score in inbox.classified.labels]
            assert probabilities == sorted(probabilities, reverse=True)
            if num_labels == 1:
                assert probabilities == pytest.approx(
                    expected.double().sigmoid().tolist(), rel=1e-4
                )
            else:
                assert sum(probabilities) == pytest.approx(1)


def test_each_kind_of_adapter_for_its_own_calls(
    loaded: LoadedBase, classifiers: dict[str, Path], held: dict[str, HeldAdapter]
) -> None:
    driver = Driver(loaded)
    classifier = _hold(classifiers["lora"], loaded)

    def refusal(adapter: HeldAdapter | None, **options: Any) -> str:
        with pytest.raises(InvalidRequestError) as error:
            check_request(
                driver.request((1, 2), adapter, **options), loaded.info, EngineConfig(), CONTEXT
            )
        assert error.value.field == "adapter"
        return str(error.value)

    assert "'base' has no classification head; name an adapter" in refusal(None, classify=True)
    assert "'wide' has no classification head" in refusal(held["wide"], classify=True)
    assert "'lora' has a classification head and generates nothing; use Classify" in refusal(
        classifier
    )
    assert "use Classify" in refusal(classifier, continuations=((1,),))
    request = driver.request((1, 2), classifier, classify=True)
    check_request(request, loaded.info, EngineConfig(), CONTEXT)


def test_a_head_that_overflows_fails_alone(
    loaded: LoadedBase, classifiers: dict[str, Path]
) -> None:
    good = _hold(classifiers["lora"], loaded)
    weights: AdapterWeights = good.weights
    assert weights.classifier is not None
    head = replace(weights.classifier, weight=weights.classifier.weight.sign() * 3e38)
    hostile = HeldAdapter("hostile", replace(weights, classifier=head))
    driver = Driver(loaded)
    first, other = (driver.add(_PROMPT, adapter, classify=True) for adapter in (hostile, good))
    driver.run()
    assert isinstance(first.terminal, Failed)
    assert isinstance(first.error, AdapterRefusedError)
    assert "'hostile': its weights overflow" in str(first.error)
    assert other.classified
    assert (hostile.num_released, good.num_released) == (1, 1)


def test_cancelled(loaded: LoadedBase, classifiers: dict[str, Path]) -> None:
    held = _hold(classifiers["prefix"], loaded)
    driver = Driver(loaded, max_step_tokens=8)
    request = driver.request(_PROMPT, held, classify=True)
    inbox = driver.submit(request)
    driver.step()
    driver.core.cancel(request.request_id)
    driver.core.check_integrity()
    assert isinstance(inbox.terminal, Failed)
    assert held.num_released == 1
    assert not driver.core.has_work
