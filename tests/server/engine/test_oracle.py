"""A mixed batch equals each request run alone through transformers and PEFT."""

import random
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from server.kernels import load_native
from server.models.loader import LoadedBase, load_base
from tests.server.engine import oracle
from tests.server.engine.added import make_added
from tests.server.engine.conftest import Tiny
from tests.server.engine.harness import Driver, HeldAdapter, read_adapter
from tests.server.engine.kinds import check_against_peft, check_answers, hold, load_kernels
from tests.tiny import make_adapter

_TASK = {"task_type": "CAUSAL_LM"}
# Beside those of `tiny`.
_MORE: dict[str, peft.PeftConfig] = {
    "lora_bias": peft.LoraConfig(r=2, lora_bias=True, target_modules=["o_proj"], **_TASK),
    "own_rows": peft.TrainableTokensConfig(token_indices=[9, 300, 14], **_TASK),
    "multitask": peft.MultitaskPromptTuningConfig(
        num_virtual_tokens=4, num_ranks=2, num_tasks=1, **_TASK
    ),
    "classifier": peft.LoraConfig(r=3, target_modules=["q_proj", "v_proj"], task_type="SEQ_CLS"),
    "soft_classifier": peft.PromptTuningConfig(num_virtual_tokens=6, task_type="SEQ_CLS"),
}
# PEFT has no copies of a quantized linear to train.
_DENSE_ONLY: dict[str, peft.PeftConfig] = {
    "saved": peft.LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["down_proj"], **_TASK
    ),
}


def _prompts(vocab_size: int, count: int, seed: int) -> list[tuple[int, ...]]:
    generator = random.Random(seed)
    lengths = [1, 3, 7, 11, 16, 23, 40, 61]
    return [
        tuple(generator.randrange(1, vocab_size) for _ in range(lengths[i % len(lengths)]))
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def adapters(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of every kind."""
    root = tmp_path_factory.mktemp("kinds")
    made = {
        name: make_adapter(tiny.base, root / name, config, name=name, seed=seed)
        for seed, (name, config) in enumerate((_MORE | _DENSE_ONLY).items())
    }
    lora = peft.LoraConfig(r=3, target_modules=["q_proj", "down_proj"], **_TASK)
    made["added"] = make_added(tiny.base, root / "added", lora, name="added")
    return tiny.adapters | made


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize(
    ("kernels", "step_tokens"), [("deterministic", 13), ("native", 512), ("torch", 512)]
)
def test_every_kind_in_one_batch(
    tiny: Tiny, adapters: dict[str, Path], quantization: str, kernels: str, step_tokens: int
) -> None:
    base = load_kernels(tiny.base, quantization, kernels)
    missing = _DENSE_ONLY.keys() if quantization != "none" else ()
    wanted = {name: path for name, path in adapters.items() if name not in missing}
    check_against_peft(base, tiny.base, wanted, step_tokens=step_tokens)


def test_int8_at_the_default_threshold(tiny: Tiny, adapters: dict[str, Path]) -> None:
    """Each prompt alone in a step: what its neighbours hold may change a row there."""
    base = load_base(tiny.base, quantization="int8", kernels="torch")
    assert base.info.int8_threshold == 6.0
    driver = Driver(base, prefix_cache=False)
    prompts = _prompts(base.info.vocab_size, 8, seed=3)
    with_outliers, without = (oracle.load(tiny.base, "int8", None, t) for t in (6.0, 0.0))
    assert any(
        not torch.equal(oracle.rows(with_outliers, prompt, 1), oracle.rows(without, prompt, 1))
        for prompt in prompts
    )
    num_moved = 0
    for name in (None, "wide", "dora", "ia3", "tuned", "words", "prompt", "prefix", "classifier"):
        path = None if name is None else adapters[name]
        held = None if name is None or path is None else hold(name, path, base)
        options: dict[str, Any] = {"max_tokens": 1, "num_logprobs": base.info.vocab_size}
        if name == "classifier":
            options = {"classify": True}
        jobs = []
        for prompt in prompts:
            jobs.append((prompt, driver.add(prompt, held, **options)))
            driver.run()
        num_moved += check_answers(base, tiny.base, path, held, jobs, max_tokens=1)
    assert num_moved <= 2


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
