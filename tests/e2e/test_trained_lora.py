"""What the trainer writes for each variant of LoRA, the server computes as PEFT does."""

from pathlib import Path
from typing import Any

import pytest

from tests.server.engine.kinds import check_against_peft, load_kernels
from tests.tiny import make_qwen
from tests.trainer.jobs import configure, exported, trained
from trainer import preflight
from trainer.methods.lora.variants import VARIANTS

# PEFT warns of norms, and of embeddings and heads that it would save as a whole.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ALL: dict[str, dict[str, Any]] = {
    **{name: {"type": name} for name in VARIANTS if name != "loftq"},
    "gaussian": {"init": "gaussian", "layers": [1]},
    "lora_bias": {"lora_bias": True, "targets": ["q_proj", "gate_proj"]},
    "orthogonal": {"init": "orthogonal", "use_dora": True, "targets": r".*\.(q|v)_proj"},
    "patterns": {
        "type": "pissa",
        "use_rslora": True,
        "rank_pattern": {"q_proj": 6},
        "alpha_pattern": {r"0\.mlp\.[a-z]*_proj": 9},
    },
    "biases": {"bias": "all", "targets": ["o_proj", "up_proj"]},
    "adapted-biases": {"bias": "lora_only", "use_dora": True, "targets": ["q_proj", "down_proj"]},
    "ends": {
        "targets": ["embed_tokens", "q_proj", "lm_head"],
        "modules_to_save": ["norm", "input_layernorm"],
    },
    "saved": {"modules_to_save": ["embed_tokens", "lm_head"], "targets": ["v_proj"]},
    "tokens": {"trainable_token_indices": list(range(2, 300, 3)), "targets": ["up_proj"]},
}
SOME = ("dora", "olora", "corda", "mica", "biases")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with biases, and a head of its own."""
    return make_qwen(tmp_path_factory.mktemp("trained") / "qwen")


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_server_serves_what_was_trained(quantization: str, base: Path, tmp_path: Path) -> None:
    names = ALL if quantization == "nf4" else SOME
    methods = {name: ALL[name] for name in names}
    if quantization != "none":
        methods["loftq"] = {"type": "loftq"}
    adapters = {}
    for name, method in methods.items():
        config = configure(base, tmp_path, {"rank": 4, **method}, quantization)
        prepared = preflight.prepare(config)
        job = trained(config, prepared)
        adapters[name] = exported(job, prepared, tmp_path / name).directory
    loaded = load_kernels(base, quantization, "deterministic")
    check_against_peft(loaded, base, adapters, prompts_each=1)
