"""Methods that change norms, input embeddings and the output head, mixed in one batch."""

import random
from pathlib import Path
from typing import Any

import peft
import pytest

from tests.server.engine.conftest import Tiny
from tests.server.engine.kinds import check_against_peft, load_kernels
from tests.server.engine.small_bases import BASES
from tests.tiny import make_adapter, make_model

_TASK = {"task_type": "CAUSAL_LM"}


def _lora(**options: Any) -> peft.LoraConfig:
    options.setdefault("target_modules", ["q_proj"])
    return peft.LoraConfig(r=3, lora_alpha=5, **options, **_TASK)


_CONFIGS: dict[str, peft.PeftConfig] = {
    "lora": _lora(target_modules=["q_proj", "down_proj"]),
    "prompt": peft.PromptTuningConfig(num_virtual_tokens=3, **_TASK),
    "ln_tuning": peft.LNTuningConfig(target_modules=["input_layernorm", "norm"], **_TASK),
    "ln_saved": peft.LNTuningConfig(
        target_modules=["post_attention_layernorm"], modules_to_save=["lm_head"], **_TASK
    ),
    "saved_norms": _lora(modules_to_save=["norm"]),
    "saved_both": _lora(modules_to_save=["embed_tokens", "lm_head"]),
    "saved_embedding": _lora(modules_to_save=["embed_tokens"]),
    "saved_head": _lora(modules_to_save=["lm_head"]),
    "saved_tied": _lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "lora_embedding": _lora(target_modules=["embed_tokens", "q_proj"]),
    "lora_head": _lora(target_modules=["lm_head", "v_proj"], use_rslora=True),
    "lora_both": _lora(target_modules=["embed_tokens", "lm_head"], rank_pattern={"lm_head": 7}),
    "lora_tied": _lora(target_modules=["embed_tokens"], ensure_weight_tying=True),
    "dora_both": _lora(target_modules=["embed_tokens", "lm_head"], use_dora=True),
    "lora_saved": _lora(target_modules=["embed_tokens"], modules_to_save=["lm_head"]),
    "tokens": _lora(trainable_token_indices=[200, 5, 17]),
    "tokens_both": _lora(trainable_token_indices={"embed_tokens": [3, 9], "lm_head": [3, 9]}),
    "tokens_apart": _lora(trainable_token_indices={"embed_tokens": [8, 9], "lm_head": [250]}),
    "tokens_head": _lora(trainable_token_indices={"lm_head": [1, 300]}),
    "tokens_lora_head": _lora(
        target_modules=["lm_head"], trainable_token_indices={"embed_tokens": [9, 4]}
    ),
    "trainable_tokens": peft.TrainableTokensConfig(token_indices=list(range(40, 90)), **_TASK),
    "trainable_tokens_head": peft.TrainableTokensConfig(
        token_indices=[250, 31, 7], target_modules=["lm_head"], **_TASK
    ),
    "ia3_head": peft.IA3Config(
        target_modules=["lm_head", "v_proj"], feedforward_modules=["lm_head"], **_TASK
    ),
}
# What is particular to these architectures.
_OWN: dict[str, dict[str, peft.PeftConfig]] = {
    "qwen3": {
        "qk_norms": peft.LNTuningConfig(target_modules=["q_norm", "k_norm"], **_TASK),
        "q_norm": _lora(modules_to_save=["0.self_attn.q_norm"]),
    },
    "gemma3": {
        "norms": peft.LNTuningConfig(
            target_modules=["q_norm", "k_norm", "pre_feedforward_layernorm", "norm"], **_TASK
        ),
    },
}
_GPT2: dict[str, peft.PeftConfig] = {
    "lora": _lora(target_modules=["c_attn"], fan_in_fan_out=True),
    "ln_tuning": peft.LNTuningConfig(target_modules=["ln_1", "ln_2", "ln_f"], **_TASK),
    "saved_norms": _lora(target_modules=["c_attn"], modules_to_save=["ln_f"]),
    "saved_embedding": _lora(target_modules=["c_attn"], modules_to_save=["wte"]),
    "lora_embedding": _lora(target_modules=["wte"]),
    "lora_head": _lora(target_modules=["lm_head"]),
    "all_biases": _lora(target_modules=["c_attn"], bias="all"),
    "tokens": _lora(target_modules=["c_attn"], trainable_token_indices=[200, 5, 17]),
    "trainable_tokens": peft.TrainableTokensConfig(token_indices=[6, 80, 13], **_TASK),
}
_SOME = ("lora", "prompt", "ln_tuning", "saved_tied", "lora_tied", "dora_both", "tokens")

_QUANTIZED = (*_SOME, "saved_norms", "trainable_tokens", "trainable_tokens_head", "ia3_head")


def _make(root: Path, name: str) -> Tiny:
    base = make_model(root / "base", BASES[name])
    configs = _GPT2 if name == "gpt2" else _CONFIGS | _OWN.get(name, {})
    return Tiny(base, _adapters(root, base, configs))


def _adapters(root: Path, base: Path, configs: dict[str, peft.PeftConfig]) -> dict[str, Path]:
    return {
        name: make_adapter(base, root / name, config, name=name.replace("_", "-"), seed=seed)
        for seed, (name, config) in enumerate(configs.items())
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tiny]:
    """Bases with their adapters, as they are asked for."""
    root = tmp_path_factory.mktemp("tokens")

    class Made(dict[str, Tiny]):
        def __missing__(self, name: str) -> Tiny:
            self[name] = _make(root / name, name)
            return self[name]

    return Made()


@pytest.mark.parametrize("name", ["llama", "llama_tied"])
@pytest.mark.parametrize(
    ("kernels", "step_tokens"), [("deterministic", 13), ("native", 512), ("torch", 512)]
)
def test_every_kind(made: dict[str, Tiny], name: str, kernels: str, step_tokens: int) -> None:
    tiny = made[name]
    base = load_kernels(tiny.base, "none", kernels)
    check_against_peft(base, tiny.base, tiny.adapters, step_tokens=step_tokens, prompts_each=1)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("kernels", ["deterministic", "native"])
def test_a_quantized_base(made: dict[str, Tiny], quantization: str, kernels: str) -> None:
    tiny = made["llama_tied"]
    adapters = {name: tiny.adapters[name] for name in _QUANTIZED}
    base = load_kernels(tiny.base, quantization, kernels)
    check_against_peft(base, tiny.base, adapters, prompts_each=1)


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "gemma2", "gpt2"])
@pytest.mark.parametrize("kernels", ["deterministic", "native"])
def test_architectures(made: dict[str, Tiny], name: str, kernels: str) -> None:
    tiny = made[name]
    wanted = {*_SOME, *_OWN.get(name, {})} if name != "gpt2" else _GPT2.keys()
    adapters = {key: path for key, path in tiny.adapters.items() if key in wanted}
    base = load_kernels(tiny.base, "none", kernels)
    check_against_peft(base, tiny.base, adapters, step_tokens=17, prompts_each=1)


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("seed", range(3))
def test_random_configurations(
    made: dict[str, Tiny], tmp_path: Path, seed: int, quantization: str
) -> None:
    generator = random.Random(f"{quantization} {seed}")
    name = generator.choice(["llama", "llama_tied", "qwen3", "gemma3"])
    tied = name != "llama"
    configs = {f"a{i}": _random(generator, tied) for i in range(4)}
    base = load_kernels(
        made[name].base, quantization, generator.choice(["deterministic", "native"])
    )
    adapters = _adapters(tmp_path, made[name].base, configs)
    check_against_peft(
        base, made[name].base, adapters, step_tokens=generator.choice([7, 512]), prompts_each=1
    )


def _random(generator: random.Random, tied: bool) -> peft.PeftConfig:
    """A configuration that PEFT can run."""

    def some(names: list[Any], least: int = 0) -> list[Any]:
        return generator.sample(names, generator.randint(least, len(names)))

    norms = ["0.input_layernorm", "post_attention_layernorm", "model.norm"]
    kind = generator.random()
    if kind < 0.2:
        tuned = some(["input_layernorm", "post_attention_layernorm", "norm"], 1)
        saved = some(["embed_tokens", "lm_head"])
        return peft.LNTuningConfig(target_modules=tuned, modules_to_save=saved or None, **_TASK)
    if kind < 0.35:
        tokens = generator.sample(range(320), generator.randint(1, 300))
        # PEFT cannot run both of a tied base named at once.
        targets = some(["embed_tokens", "lm_head"], 1)[: 1 if tied else 2]
        return peft.TrainableTokensConfig(token_indices=tokens, target_modules=targets, **_TASK)
    targets = some(["q_proj", "up_proj", "embed_tokens", "lm_head"], 1)
    free = [name for name in ("embed_tokens", "lm_head") if name not in targets]
    saved = some(norms) + (some(free) if generator.random() < 0.4 else [])
    trained = [name for name in free if name not in saved]
    trained = some(trained) if generator.random() < 0.5 else []
    dora = generator.random() < 0.3
    if tied and "embed_tokens" in trained and ("lm_head" in saved or dora):
        trained.remove("embed_tokens")
    return peft.LoraConfig(
        r=generator.randint(1, 9),
        lora_alpha=generator.randint(1, 20),
        use_dora=dora,
        use_rslora=generator.random() < 0.5,
        target_modules=targets,
        modules_to_save=saved or None,
        rank_pattern={generator.choice(targets): generator.randint(1, 12)},
        alpha_pattern={generator.choice(targets): generator.randint(1, 12)},
        trainable_token_indices={
            name: generator.sample(range(320), generator.randint(1, 40)) for name in trained
        }
        or None,
        # Ties what only one of them is trained for.
        ensure_weight_tying=not trained and not {"embed_tokens", "lm_head"} <= {*targets, *saved},
        **_TASK,
    )
