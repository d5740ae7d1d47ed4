"""Methods that change linears: DoRA, biases, IA3 and saved linears, mixed in one batch."""

import random
from pathlib import Path

import peft
import pytest
from transformers import GPT2Config

from tests.server.engine.conftest import Tiny
from tests.server.engine.kinds import check_against_peft, load_kernels
from tests.tiny import make_adapter, make_model, make_qwen

# PEFT warns of what is being tested here: biases, and linears replaced as a whole.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

_TASK = {"task_type": "CAUSAL_LM"}
# PEFT has no biases to train of a quantized linear beside its own.
_BIASES = ("none", "lora_only", "all")
_LLAMA_LIKE: dict[str, peft.PeftConfig] = {
    "lora": peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"], **_TASK),
    "dora": peft.LoraConfig(
        r=4, use_dora=True, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"], **_TASK
    ),
    "rsdora": peft.LoraConfig(
        r=3,
        use_dora=True,
        use_rslora=True,
        rank_pattern={"k_proj": 7},
        target_modules="all-linear",
        **_TASK,
    ),
    "lora_bias": peft.LoraConfig(
        r=4, lora_bias=True, target_modules=["q_proj", "o_proj", "gate_proj"], **_TASK
    ),
    "lora_only": peft.LoraConfig(r=4, bias="lora_only", target_modules=["q_proj"], **_TASK),
    "ia3": peft.IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], **_TASK
    ),
    # Input factors on one of two fused linears, and on both with different values.
    "ia3_gate": peft.IA3Config(
        target_modules=["gate_proj", "o_proj"], feedforward_modules=["gate_proj"], **_TASK
    ),
    "ia3_both": peft.IA3Config(
        target_modules=["gate_proj", "up_proj"],
        feedforward_modules=["gate_proj", "up_proj"],
        **_TASK,
    ),
    "prompt": peft.PromptTuningConfig(num_virtual_tokens=5, **_TASK),
}
_DENSE_ONLY: dict[str, peft.PeftConfig] = {
    "all_biases": peft.LoraConfig(r=2, bias="all", target_modules=["q_proj", "o_proj"], **_TASK),
    "dora_biases": peft.LoraConfig(
        r=2, bias="all", use_dora=True, target_modules=["q_proj", "v_proj"], **_TASK
    ),
    "saved": peft.LoraConfig(
        r=2, target_modules=["q_proj"], modules_to_save=["k_proj", "down_proj"], **_TASK
    ),
    "ia3_saved": peft.IA3Config(
        target_modules=["v_proj"], feedforward_modules=[], modules_to_save=["o_proj"], **_TASK
    ),
}
_GPT2: dict[str, peft.PeftConfig] = {
    "lora": peft.LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, **_TASK),
    "dora": peft.LoraConfig(
        r=4, use_dora=True, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, **_TASK
    ),
    "lora_only": peft.LoraConfig(
        r=4, bias="lora_only", target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, **_TASK
    ),
    "ia3": peft.IA3Config(
        target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], **_TASK
    ),
}
# Conv1D holds its weight the other way round; attn.c_proj is square.
_GPT2_DENSE: dict[str, peft.PeftConfig] = {
    "saved": peft.LoraConfig(
        r=2,
        target_modules=["c_attn"],
        modules_to_save=["attn.c_proj", "c_fc"],
        fan_in_fan_out=True,
        **_TASK,
    ),
}


def _gpt2(directory: Path) -> Path:
    config = GPT2Config(
        vocab_size=320,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=512,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=0,
    )
    return make_model(directory, config)


def _family(root: Path, base: Path, configs: dict[str, peft.PeftConfig]) -> Tiny:
    adapters = {
        name: make_adapter(base, root / name, config, name=name.replace("_", "-"), seed=seed)
        for seed, (name, config) in enumerate(configs.items())
    }
    return Tiny(base, adapters)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    root = tmp_path_factory.mktemp("qwen")
    return _family(root, make_qwen(root / "base"), _LLAMA_LIKE | _DENSE_ONLY)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    root = tmp_path_factory.mktemp("gpt2")
    return _family(root, _gpt2(root / "base"), _GPT2 | _GPT2_DENSE)


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize(
    ("kernels", "step_tokens"),
    [("deterministic", 512), ("native", 13), ("torch", 512), ("triton", 13)],
)
def test_linears_of_a_llama_like_base(
    qwen: Tiny, quantization: str, kernels: str, step_tokens: int
) -> None:
    base = load_kernels(qwen.base, quantization, kernels)
    # PEFT has no copies of a quantized linear to train.
    wanted = _LLAMA_LIKE if quantization != "none" else qwen.adapters
    adapters = {name: qwen.adapters[name] for name in wanted}
    check_against_peft(base, qwen.base, adapters, step_tokens=step_tokens)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("kernels", ["deterministic", "torch", "triton"])
def test_linears_of_gpt2(gpt2: Tiny, quantization: str, kernels: str) -> None:
    base = load_kernels(gpt2.base, quantization, kernels)
    wanted = _GPT2 if quantization != "none" else gpt2.adapters
    check_against_peft(base, gpt2.base, {name: gpt2.adapters[name] for name in wanted})


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("seed", range(3))
def test_random_configurations(qwen: Tiny, tmp_path: Path, seed: int, quantization: str) -> None:
    generator = random.Random(f"{quantization} {seed}")
    dense = quantization == "none"
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    configs: dict[str, peft.PeftConfig] = {}
    for i in range(3):
        targets = generator.sample(names, generator.randint(1, len(names)))
        rest = [name for name in names if name not in targets]
        saved = generator.sample(rest, generator.randint(0, len(rest)))
        saved = saved if dense and generator.random() < 0.4 else []
        if generator.random() < 0.3:
            feedforward = generator.sample(targets, generator.randint(0, len(targets)))
            configs[f"a{i}"] = peft.IA3Config(
                target_modules=targets,
                feedforward_modules=feedforward,
                modules_to_save=saved or None,
                **_TASK,
            )
            continue
        dora = generator.random() < 0.5
        configs[f"a{i}"] = peft.LoraConfig(
            r=generator.randint(1, 9),
            lora_alpha=generator.randint(1, 30),
            use_dora=dora,
            use_rslora=generator.random() < 0.5,
            lora_bias=not dora and generator.random() < 0.5,
            bias="none" if saved else generator.choice(_BIASES[: 3 if dense else 2]),
            target_modules=targets,
            modules_to_save=saved or None,
            rank_pattern={generator.choice(targets): generator.randint(1, 17)},
            alpha_pattern={generator.choice(targets): generator.randint(1, 17)},
            **_TASK,
        )
    family = _family(tmp_path, qwen.base, configs)
    base = load_kernels(qwen.base, quantization, generator.choice(["deterministic", "torch"]))
    check_against_peft(base, qwen.base, family.adapters, step_tokens=generator.choice([7, 512]))
